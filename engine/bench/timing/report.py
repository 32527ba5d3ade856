"""Report: what a benchmark measured and under which circumstances, as a table, as JSON and as Markdown."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from penultimate.engine.bench.timing.cells import Row, number
from penultimate.engine.bench.timing.measurement import SECONDS, Measurement
from penultimate.engine.runtime.capabilities import (
    SWITCH,
    compiled_float_kernels,
    compiled_kernels,
    machine,
    usable_cores,
)
from penultimate.engine.runtime.whole_file import write_whole
from penultimate.store.errors import InputError
from penultimate.store.provenance import library_versions, source_commit, utc_now

_BUSY = 0.1
"""Fraction of a core that other programs took from which on the machine counts as busy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A benchmark's result."""

    bench: str
    """Name of the verb, such as ``store``; only reports of one bench are compared."""

    title: str
    settings: Mapping[str, Any]
    """What was measured and how: sizes, networks, precision. JSON-able."""

    command: Sequence[str] = field(default_factory=lambda: ["python", *sys.argv])
    """Words of the command line that makes it; by default those of the script that runs."""

    measurements: Sequence[Measurement] = ()
    """What took turns; empty in a report of counts or of draws, which says nothing of time."""

    other_cores: float | None = None
    """Number of cores that other programs took meanwhile; None where that is not known, or nothing was timed."""

    findings: Sequence[str] = ()
    """Sentences of what follows, such as which stage is the bottleneck."""

    not_measured: Sequence[str] = ()
    """Sentences of what was left out, and why."""

    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """Title -> rows of a table of the bench's own, such as thresholds."""

    results: Sequence[Mapping[str, Any]] = ()
    """Rows of the bench's own, for JSON alone; by timm's column names where timm has them.

    Numbers of a row that are not finite, which JSON does not know, are left out of it.
    """

    figures: Mapping[str, str] = field(default_factory=dict)
    """Title -> name of a picture beside the report."""

    created: str = field(default_factory=utc_now)

    @property
    def command_line(self) -> str:
        """Return the command line as a shell takes it, with the class of processor that it was lowered to."""
        lowered = [f"{SWITCH}={os.environ[SWITCH]}"] if os.environ.get(SWITCH) else []
        return shlex.join([*lowered, *self.command])

    @property
    def is_busy(self) -> bool:
        """Return True if other programs took a noticeable part of the cores."""
        return self.other_cores is not None and self.other_cores > _BUSY

    @property
    def num_rounds(self) -> int:
        """Return the number of rounds; the fewest where comparisons had different numbers."""
        return min((len(each.values) for each in self.measurements), default=0)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict, which ``bench compare`` reads."""
        return {
            "bench": self.bench,
            "title": self.title,
            "command": self.command_line,
            "created": self.created,
            "commit": source_commit(),
            "versions": library_versions(),
            "machine": machine(),
            "kernels": kernels(),
            "settings": dict(self.settings),
            "warm_up": "one round" if self.measurements else None,
            "rounds": self.num_rounds,
            "other_cores": self.other_cores,
            "busy": self.is_busy,
            "measurements": [each.as_dict() for each in self.measurements],
            "findings": list(self.findings),
            "not_measured": list(self.not_measured),
            "tables": {title: list(rows) for title, rows in self.tables.items()},
            "results": [_without_infinite(row) for row in self.results],
            "figures": dict(self.figures),
        }

    def rows(self) -> list[Row]:
        """Return the table for people, one row a measurement."""
        return [_row(each) for each in self.measurements]

    def sentences(self) -> list[str]:
        """Return what follows, and what to keep in mind: rounds, other work of the machine, what was not measured."""
        return [*self.findings, *self._how()]

    def markdown(self) -> str:
        """Return the report in the form of ``benchmarks/results/``."""
        about, versions = machine(), library_versions()
        classes = about.get("cpu_class", "no x86-64")
        lowered = "" if classes == about.get("cpu_class_actual", classes) else f" (lowered by {SWITCH})"
        head = (
            f"{about['processor']}, {about['cores']} cores, class {classes}{lowered}, {about['memory_gib']} GiB, "
            f"{about['system']}; probe on {kernels()}. Commit {source_commit()}, {self.created}. "
            f"{', '.join(f'{name} {number}' for name, number in versions.items())}."
        )
        settings = ", ".join(f"{name} {_text(value)}" for name, value in self.settings.items())
        parts = [f"# {self.title}", f"    {self.command_line}", head, f"Measured: {settings}."]
        parts += [f"![{title}]({name})" for title, name in self.figures.items()]
        for title, rows in self.tables.items():
            parts += [f"## {title}", markdown_table(rows)] if rows else []
        groups = list(dict.fromkeys(each.group for each in self.measurements))
        for group in groups:
            rows = [_row(each) for each in self.measurements if each.group == group]
            parts += [f"## {group}", markdown_table([_without_group(row) for row in rows])]
        if self.findings:
            parts += ["## What follows", "\n".join(f"- {sentence}" for sentence in self.findings)]
        if how := self._how():
            parts += ["## How, and what was not measured", "\n".join(f"- {sentence}" for sentence in how)]
        return "\n\n".join(parts) + "\n"

    def write(self, path: Path) -> None:
        """Write the Markdown to ``path`` and the JSON beside it, as ``.json``. Raises OSError."""
        write_whole(path, self.markdown())
        write_whole(path.with_suffix(".json"), json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")

    def _how(self) -> list[str]:
        rounds = [self._rounds()] if self.measurements else []
        is_timed = self.measurements or self.other_cores is not None
        return [*rounds, *([self._busy()] if is_timed else []), *self.not_measured]

    def _rounds(self) -> str:
        rounds = self.num_rounds
        return (
            f"Medians of {rounds} {'rounds' if rounds > 1 else 'round'} after one that warms up; contenders take turns "
            "in every round. Self is processor time over threads, waiting the rest of the wall-clock time."
        )

    def _busy(self) -> str:
        if self.other_cores is None:
            return "Whether other programs used the machine meanwhile is not known on this system."
        took = f"other programs took {self.other_cores:.2f} of {usable_cores()} cores meanwhile"
        if self.is_busy:
            return f"The machine was busy: {took}, so rates are too low; ratios within a round suffer less."
        return f"The machine was quiet: {took}."


def kernels() -> str:
    """Describe what the probe computes with: its compiled kernels, or torch alone."""
    if compiled_kernels() is not None:
        return "compiled kernels (AMX)"
    found = compiled_float_kernels()
    return "torch alone" if found is None else f"compiled kernels (float32, {found.name.split('.')[0].split('_')[-1]})"


def read_report(path: Path) -> dict[str, Any]:
    """Read the JSON of a report; the path may also name the Markdown beside it.

    Raises InputError where there is none, or the file is no report.
    """
    path = path.with_suffix(".json") if path.suffix == ".md" else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no report {path}; `penultimate bench VERB --out FILE.md` writes one") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); expected a report of `penultimate bench`") from error
    if not isinstance(found, dict) or not {"bench", "measurements"} <= found.keys():
        raise InputError(f"{path} is no report of `penultimate bench`: it has no 'bench' and 'measurements'")
    return found


def markdown_table(rows: Sequence[Row]) -> str:
    """Return rows as a table of Markdown; numbers are to the right."""
    if not rows:
        return ""
    headings = list(rows[0])
    lines = [f"| {' | '.join(headings)} |", f"|---|{'---:|' * (len(headings) - 1)}"]
    lines += [f"| {' | '.join(row[heading] for heading in headings)} |" for row in rows]
    return "\n".join(lines)


def _row(measured: Measurement) -> Row:
    bound = ">" if measured.unit == SECONDS and not measured.complete else ""
    ratio = f"{measured.ratio_bound}{median(measured.ratios):.2f} of {measured.ratio_to}" if measured.ratios else ""
    return {
        "measured": measured.group,
        "what": measured.name,
        "items": f"{measured.items:,}",
        "median": f"{bound}{number(measured.median)} {measured.unit}",
        "least to most": f"{number(min(measured.values))} to {number(max(measured.values))}",
        "warm-up": number(measured.warm_up),
        "speed": ratio,
        "self s": number(measured.self_seconds),
        "waiting s": number(measured.waiting_seconds),
    }


def _without_infinite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not isinstance(value, float) or isfinite(value)}


def _without_group(row: Row) -> Row:
    return {heading: text for heading, text in row.items() if heading != "measured"}


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "default"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
