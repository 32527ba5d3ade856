"""Write findings, figures and trials as one HTML page that needs no network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from penultimate.engine.analysis.findings import Findings
from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.names import setting_name
from penultimate.engine.report.sentences import sentences
from penultimate.store.key import PENULTIMATE
from penultimate.store.provenance import library_versions
from penultimate.store.trials.trial import Trial


def write_page(
    path: Path,
    found: Findings,
    figures: Sequence[ReportFigure],
    trials: Sequence[Trial],
    *,
    title: str = "Transfer report",
) -> None:
    """Write the report to ``path``. ``trials`` are those behind ``found``; their settings are listed."""
    path.write_text(page(found, figures, trials, title=title), encoding="utf-8")


def page(
    found: Findings, figures: Sequence[ReportFigure], trials: Sequence[Trial], *, title: str = "Transfer report"
) -> str:
    """Return the report as HTML."""
    rows = found.board.rows
    headings, cells = _board(rows)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            sentences=sentences(found),
            rows=rows,
            headings=headings,
            board=[(row, _filters(row), of_row) for row, of_row in zip(rows, cells, strict=True)],
            datasets=sorted({row.dataset for row in rows}),
            methods=sorted({row.method for row in rows}),
            figures=[(figure, Markup(figure.svg())) for figure in figures],
            found=found,
            trials=[(trial, _facts(trial)) for trial in trials],
            numbers=_script_safe(found.as_json()),
            version=library_versions().get("penultimate", "not installed"),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("penultimate.engine.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "p": _p, "interval": _interval, "setting": setting_name}
    return environment


def _percent(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


def _p(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.2g}"  # NaN differs from itself


def _interval(bounds: Sequence[float] | None, digits: int = 2) -> str:
    return "" if bounds is None else f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


@dataclass(frozen=True, slots=True)
class TableCell:
    """One cell of the scoreboard."""

    text: str
    sort: str = ""
    """Value that the column is sorted by; empty where it is the text."""

    title: str = ""
    standing: str = ""
    """Class that colours the cell: ``best``, ``tie``, ``no`` or none."""


_HEADINGS = (
    "dataset", "backbone", "readout", "setting", "method", "images a class", "steps", "seed", "metric", "test %",
    "95 %", "± s.e.", "adjusted log odds", "ImageNet %", "n", "standing", "p against best", "p (Holm)", "l2",
    "converged",
)  # fmt: skip
_NUMERIC = set(_HEADINGS) - {"dataset", "backbone", "readout", "setting", "method", "metric", "standing", "converged"}


def _board(rows: Sequence[ScoreRow]) -> tuple[list[tuple[str, bool]], list[list[TableCell]]]:
    """Return headings (each with True for a numeric column) and cells of the scoreboard, without empty columns."""
    table = [dict(zip(_HEADINGS, _cells(row), strict=True)) for row in rows]
    kept = [heading for heading in _HEADINGS if any(cells[heading].text for cells in table)]
    return [(each, each in _NUMERIC) for each in kept], [[cells[each] for each in kept] for cells in table]


def _cells(row: ScoreRow) -> list[TableCell]:
    standing = _standing(row)
    bounds = None if row.interval is None else [100 * bound for bound in row.interval]
    adjusted = row.adjusted_log_odds
    return [
        TableCell(row.dataset),
        TableCell(row.backbone),
        TableCell("" if row.readout == PENULTIMATE else row.readout),
        TableCell(row.variant),
        TableCell(row.method),
        TableCell("" if row.shots is None else str(row.shots)),
        TableCell("" if row.steps is None else str(row.steps)),
        TableCell(str(row.seed)),
        TableCell(row.metric),
        TableCell(_percent(row.value), sort=repr(row.value)),
        TableCell(
            _interval(bounds, 1), sort="" if bounds is None else repr(bounds[0]), title=row.interval_method or ""
        ),
        TableCell(_percent(row.standard_error)),
        TableCell("" if adjusted is None else f"{adjusted:+.3f}", sort="" if adjusted is None else repr(adjusted)),
        TableCell(_percent(row.imagenet_top1)),
        TableCell(f"{row.n_test:,}", sort=str(row.n_test)),
        TableCell({"best": "● best", "tie": "○ tie", "": ""}[standing], standing=standing),
        TableCell(_p(row.p_value), sort=_exact(row.p_value), title=row.test or ""),
        TableCell(_p(row.p_value_holm), sort=_exact(row.p_value_holm)),
        TableCell(_p(row.l2), sort=_exact(row.l2)),
        TableCell("yes" if row.converged else "no", standing="" if row.converged else "no"),
    ]


def _standing(row: ScoreRow) -> str:
    return "best" if row.is_best else "tie" if row.ties_with_best else ""


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def _filters(row: ScoreRow) -> dict[str, str]:
    """Return the texts that the scoreboard's filters search."""
    return {
        "text": " ".join((row.dataset, row.backbone, row.readout, row.variant, row.method, row.metric)).lower(),
        "standing": " ".join((_standing(row), "" if row.converged else "open")).strip(),
    }


def _facts(trial: Trial) -> dict[str, str]:
    """Return settings, versions, hardware and the like of a trial, each as indented JSON."""
    groups: Mapping[str, Any] = {
        "features": dict(trial.features),
        "settings": dict(trial.settings),
        "chosen": dict(trial.chosen),
        "metrics": {split: dict(values) for split, values in trial.metrics.items()},
        "versions": dict(trial.versions),
        "hardware": dict(trial.hardware),
    }
    return {name: json.dumps(value, indent=1, sort_keys=True, default=str) for name, value in groups.items()}


def _script_safe(value: Any) -> Markup:
    """Return ``value`` as JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return Markup(text)
