"""How verbs print: data on stdout, as a table for people or one JSON value; talk on stderr."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table


def log(line: str) -> None:
    """Print a line for the person who waits, on stderr."""
    typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """One JSON value, indented."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, title: str | None = None) -> None:
    """Rows as a table; ``columns`` maps a row's field to its heading, numbers are right-aligned, absent is blank."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for field, heading in columns.items():
        numeric = any(isinstance(row.get(field), int | float) for row in rows)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(field)) for field in columns))
    console = Console()
    if not console.is_terminal:  # a pipe or a file has no width: never fold or cut there
        console = Console(width=1000)
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
