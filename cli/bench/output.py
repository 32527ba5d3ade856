"""Show the progress and the report of a benchmark, and declare the options that all of them have."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from penultimate.cli import options
from penultimate.cli.output import log, print_json, print_table
from penultimate.cli.output_paths import file_to_write
from penultimate.engine.bench.timing.report import Report
from penultimate.store.errors import InputError

_SECONDS_BETWEEN_LINES = 5.0

TURNS = ("seconds", "rounds")
"""Settings of every benchmark that have flags."""


def report_to_write(path: Path | None) -> Path | None:
    """Return the path of a report; raise InputError unless it ends in .md, as the JSON beside it is named after it."""
    if path is not None and path.suffix.lower() != ".md":
        raise InputError(f"cannot write {path}: expected a name that ends in .md")
    return file_to_write(path)


Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE.md",
        help="Write the report there as Markdown, and beside it as JSON, which `bench compare` reads.",
        rich_help_panel=options.WHERE,
        callback=report_to_write,
    ),
]
Images = Annotated[
    int | None,
    typer.Option(
        "--images",
        min=1,
        help="Images to run, evenly spaced in the set; by default as many as the seconds allow.",
        rich_help_panel=options.WHAT,
    ),
]


def command_line() -> Sequence[str]:
    """Return the words that were typed."""
    return ["penultimate", *sys.argv[1:]]


def show(report: Report, *, out: Path | None, json: bool) -> None:
    """Print a report as a table or as JSON, and write it where that is asked for."""
    if out is not None:
        report.write(out)
        log(f"wrote {out} and {out.with_suffix('.json')}")
    if json:
        print_json(report.as_dict())
        return
    for title, table in report.tables.items():
        if table:
            print_table(table, {heading: heading for heading in table[0]}, title=title)
    rows = report.rows()
    for group in dict.fromkeys(row["measured"] for row in rows):
        mine = [row for row in rows if row["measured"] == group]
        columns = [heading for heading in mine[0] if heading != "measured" and any(row[heading] for row in mine)]
        print_table(mine, {heading: heading for heading in columns}, title=group)
    for sentence in report.sentences():
        log(sentence)


class BenchProgress:
    """Shows on stderr what is measured and how many seconds are left: a bar on a terminal, elsewhere some lines.

    It is called with what is measured now, the seconds so far, and the seconds that it may take.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last_line = -_SECONDS_BETWEEN_LINES
        self._bar = Progress(
            BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True), disable=not self._terminal
        )
        self._task: TaskID = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: float, total: float) -> None:
        """Show a turn that begins."""
        text = f"{what}, at most about {max(0.0, total - done):.0f} s left"
        if self._terminal:
            self._bar.update(self._task, completed=min(done, total), total=total, description=text)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            log(text)
