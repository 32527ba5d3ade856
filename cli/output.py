"""Print a verb's results: data on stdout, as a table for people or one JSON value, and messages on stderr."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from penultimate.store.key import PENULTIMATE


def log(line: str) -> None:
    """Print a message on stderr."""
    typer.echo(line, err=True)


_FAILED_SHOWN = 10
"""Largest number of left-out images that are named on stderr; the store has all of them."""


def log_failed(failed: Mapping[str, str]) -> None:
    """Print the first images that were left out, with the reason of each, and the number of the others."""
    for id_, reason in list(failed.items())[:_FAILED_SHOWN]:
        log(f"left out {id_}: {reason}")
    if (more := len(failed) - _FAILED_SHOWN) > 0:
        log(f"left out {more:,} more; the features have each with its reason")


def with_readout(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return ``columns`` without the column ``readout`` where all rows are of the penultimate layer."""
    shown = any(row["readout"] != PENULTIMATE for row in rows)
    return {field: heading for field, heading in columns.items() if shown or field != "readout"}


def print_json(value: Any) -> None:
    """Print a value as indented JSON on stdout."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, title: str | None = None) -> None:
    """Print rows as a table on stdout. ``columns`` maps a row's field to its heading; an absent field is blank."""
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
