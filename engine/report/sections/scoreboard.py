"""The scoreboard: one row a trial, with filters and columns that sort."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.report.names import chosen_text, readout_text
from penultimate.engine.report.sections.section import Material, interval_text, p_text, percent, render


def scoreboard_html(material: Material) -> Markup:
    """Return the table with its filters."""
    rows = material.found.board.rows
    headings, cells = _board(rows)
    return render(
        "scoreboard.html.j2",
        headings=headings,
        board=[(row, _filters(row), of_row) for row, of_row in zip(rows, cells, strict=True)],
        datasets=sorted({row.dataset for row in rows}),
        methods=sorted({row.method for row in rows}),
    )


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
    "95 %", "± s.e.", "adjusted log odds", "ImageNet %", "n", "standing", "p against best", "p (Holm)", "balanced %",
    "macro F1 %", "AUROC", "log loss", "ECE %", "chosen", "converged",
)  # fmt: skip
_TEXTS = ("dataset", "backbone", "readout", "setting", "method", "metric", "standing", "chosen", "converged")
_NUMERIC = set(_HEADINGS) - set(_TEXTS)


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
        TableCell(readout_text(row)),
        TableCell(row.variant),
        TableCell(row.method),
        TableCell("" if row.shots is None else str(row.shots)),
        TableCell("" if row.steps is None else str(row.steps)),
        TableCell(str(row.seed)),
        TableCell(row.metric),
        TableCell(percent(row.value), sort=repr(row.value)),
        TableCell(
            interval_text(bounds, 1), sort="" if bounds is None else repr(bounds[0]), title=row.interval_method or ""
        ),
        TableCell(percent(row.standard_error)),
        TableCell("" if adjusted is None else f"{adjusted:+.3f}", sort="" if adjusted is None else repr(adjusted)),
        TableCell(percent(row.imagenet_top1)),
        TableCell(f"{row.n_test:,}", sort=str(row.n_test)),
        TableCell({"best": "● best", "tie": "○ tie", "": ""}[standing], standing=standing),
        TableCell(p_text(row.p_value), sort=_exact(row.p_value), title=row.test or ""),
        TableCell(p_text(row.p_value_holm), sort=_exact(row.p_value_holm)),
        TableCell(percent(row.scores.get("mean_per_class"))),
        TableCell(percent(row.scores.get("macro_f1"))),
        TableCell(_number(row.scores.get("auroc"))),
        TableCell(_number(row.scores.get("log_loss"))),
        TableCell(percent(row.scores.get("ece"))),
        TableCell(chosen_text(row.chosen), sort=_exact(row.l2)),
        TableCell("yes" if row.converged else "no", standing="" if row.converged else "no"),
    ]


def _standing(row: ScoreRow) -> str:
    return "best" if row.is_best else "tie" if row.ties_with_best else ""


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def _standings(row: ScoreRow) -> list[str]:
    """Return the words by which the filter of standings finds a row."""
    return ["leading"] * bool(_standing(row)) + ["open"] * (not row.converged)


def _filters(row: ScoreRow) -> dict[str, str]:
    """Return the texts that the scoreboard's filters search."""
    return {
        "text": " ".join((row.dataset, row.backbone, row.readout, row.variant, row.method, row.metric)).lower(),
        "standing": " ".join(_standings(row)),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
