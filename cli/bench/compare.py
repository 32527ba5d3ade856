"""``penultimate bench compare``: tell what became faster or slower between two reports."""

from pathlib import Path
from typing import Annotated

import typer

from penultimate.cli import options
from penultimate.cli.output import log, print_json, print_table
from penultimate.engine.bench.timing.cells import number
from penultimate.engine.bench.timing.compare import compare_reports
from penultimate.engine.bench.timing.report import read_report

Earlier = Annotated[Path, typer.Argument(metavar="A.json", help="The earlier report.")]
Later = Annotated[Path, typer.Argument(metavar="B.json", help="The later report, of the same bench.")]

_COLUMNS = ("measured", "what", "unit", "before", "after", "speed", "verdict")


def bench_compare(earlier: Earlier, later: Later, json: options.Json = False) -> None:
    """Tell what became faster or slower beyond the spread of the rounds, and what else differs.

    A measurement is called faster or slower where all rounds of one report are beyond all rounds of the other.

    \b
    penultimate bench store . --out before.md
    penultimate bench store . --out after.md
    penultimate bench compare before.json after.json
    """
    compared = compare_reports(read_report(earlier), read_report(later))
    rows = [change.as_dict() for change in compared.changes]
    if json:
        print_json({"changes": rows, "remarks": list(compared.remarks)})
        return
    texts = [
        row | {"before": number(row["before"]), "after": number(row["after"]), "speed": f"{row['speed']:.2f}"}
        for row in rows
    ]
    print_table(texts, {column: column for column in _COLUMNS})
    for remark in compared.remarks:
        log(remark)
