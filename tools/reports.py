"""Read what the reports below benchmarks/results/ say, as values.

A report is NAME.md with NAME.json beside it: title, command, created, commit, machine and tables, a list of rows
(heading -> text) each; reports of ``penultimate bench`` have their measurements besides. Benchmarks that write no JSON
themselves have it made of the tables they print: ``python tools/reports.py`` does so for every report that lacks one or
whose JSON was made in this way. A test holds that the two are in step.
"""

import json
import re
from collections.abc import Callable, Container
from pathlib import Path
from statistics import median
from typing import Any

from pages import ROOT

RESULTS = ROOT / "benchmarks" / "results"

FROM_TABLES = "made of the tables of the Markdown beside it"

NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
"""A number as reports and pages print it: thousands with commas, 3.2e-6."""

_FUNCTIONS: dict[str, Callable[[list[float]], float]] = {"median": median, "min": min, "max": max}


def numbers_in(text: str) -> list[float]:
    """Return the numbers of a text, in order."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def lookup(path: str) -> float:
    """Return the number at ``REPORT > TABLE > ROW > HEADING``, or at other keys of a report's JSON.

    A row is named by its first cell, or by its first two with `` | `` between. Of a cell with several numbers the first
    counts, or the one in brackets: ``HEADING [1]``, counted from 0, ``HEADING [median]``, ``[min]``, ``[max]``. Two
    paths with `` / `` between them are divided. Raises KeyError that says how far the path leads.
    """
    if " / " in path:
        above, below = path.split(" / ")
        return lookup(above) / lookup(below)
    path, _, which = path.strip().removesuffix("]").partition(" [")
    report, *keys = path.split(" > ")
    file = RESULTS / f"{report}.json"
    if not file.is_file():
        raise KeyError(f"{path}: there is no benchmarks/results/{file.name}")
    value = json.loads(file.read_text(encoding="utf-8"))
    for key in keys:
        value = _entry(value, key, path)
    values = [float(each) for each in value] if isinstance(value, list) else numbers_in(str(value))
    if not values:
        raise KeyError(f"{path}: {value!r} is no number")
    return float(_FUNCTIONS[which](values)) if which in _FUNCTIONS else values[int(which or 0)]


def _entry(value: Any, key: str, path: str) -> Any:
    if isinstance(value, list):
        rows = [row for row in value if key in (_name(row, 1), _name(row, 2))]
        if len(rows) != 1:
            raise KeyError(f"{path}: {len(rows)} rows are called {key!r}; there are {[_name(row, 2) for row in value]}")
        return rows[0]
    for where in (value, value.get("tables", {})) if isinstance(value, dict) else ():
        if key in where:
            return where[key]
    raise KeyError(f"{path}: no {key!r}; there are {list(value) if isinstance(value, dict) else value!r}")


def _name(row: dict[str, Any], cells: int) -> str:
    return " | ".join(str(cell) for cell in list(row.values())[:cells])


def tables(markdown: str) -> dict[str, list[dict[str, str]]]:
    """Return the tables of a report by the heading above each, without marks for bold text.

    A blank first cell repeats the one above; the second table below a heading is called ``HEADING (2)``, and so is the
    second column of one name.
    """
    found: dict[str, list[dict[str, str]]] = {}
    heading, rows = "", list[list[str]]()
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if line.startswith("|"):
            rows.append([cell.strip().replace("**", "").replace("\\|", "|") for cell in _cells(line)])
        elif rows:
            found[_unused(heading, found)] = _rows(rows)
            rows = []
    return found


def _cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line.strip().strip("|"))


def _rows(rows: list[list[str]]) -> list[dict[str, str]]:
    headings: list[str] = []
    for name in rows[0]:
        headings.append(_unused(name, headings))
    made: list[dict[str, str]] = []
    for cells in rows[2:]:
        first = cells[0] or (made[-1][headings[0]] if made else "")
        made.append(dict(zip(headings, [first, *cells[1:]], strict=True)))
    return made


def _unused(name: str, names: Container[str]) -> str:
    number = 1
    while (tried := name if number == 1 else f"{name} ({number})") in names:
        number += 1
    return tried


NOT_RECORDED = "not recorded"
"""What a report says of a commit or a machine that nobody wrote down."""

COMMAND = re.compile(r"(?:^ {4}|`|^)((?:python benchmarks/|penultimate [a-z]|make )[^`\n]+)", re.MULTILINE)
COMMIT = re.compile(r"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{7,12}\b|(?<=commit )\d{7}\b")
DATE = re.compile(r"\b20\d\d-\d\d-\d\d(?!\d)")
MACHINE = re.compile(r"(?:\d cores of an )?Intel[^.;:|\n]*|[Ss]imulations, so nothing depends on the machine")


def header(markdown: str) -> dict[str, Any]:
    """Return title, command, created, commit and machine that a report states; what it does not state is empty."""
    words = " ".join(markdown.split())
    unknown = re.search(rf"at which commits?[^.]* is {NOT_RECORDED}", words)
    machine = MACHINE.search(words)
    return {
        "title": markdown.splitlines()[0].lstrip("# "),
        "command": list(dict.fromkeys(found.strip() for found in COMMAND.findall(markdown))),
        "created": (DATE.findall(markdown) or [""])[-1],
        "commit": [NOT_RECORDED] if unknown else list(dict.fromkeys(COMMIT.findall(words))),
        "machine": machine[0].strip() if machine else NOT_RECORDED if "machine is not recorded" in words else "",
    }


def as_json(markdown: str) -> str:
    """Return the JSON of a report that has no other source than its Markdown."""
    content = header(markdown) | {"source": FROM_TABLES, "tables": tables(markdown)}
    rows = re.sub(r"\n {4,}", " ", json.dumps(content, indent=1, ensure_ascii=False))  # a row of a table is a line
    return re.sub(r"\n {3}\}", " }", rows) + "\n"


def made_of_tables() -> list[Path]:
    """Return the reports whose JSON is made of their tables, or that have none."""
    return [
        path
        for path in sorted(RESULTS.glob("*.md"))
        if not path.with_suffix(".json").exists()
        or json.loads(path.with_suffix(".json").read_text(encoding="utf-8")).get("source") == FROM_TABLES
    ]


if __name__ == "__main__":
    for path in made_of_tables():
        path.with_suffix(".json").write_text(as_json(path.read_text(encoding="utf-8")), encoding="utf-8")
