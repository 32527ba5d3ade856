"""Draw the scoreboard: test score of every backbone with its interval, on a logit axis."""

from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.analysis.scoreboard import Scoreboard

_TICKS = (
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.85,
    0.9,
    0.92,
    0.94,
    0.95,
    0.96,
    0.97,
    0.98,
    0.99,
    0.995,
    0.999,
)
_TIE, _OTHER = "#1b7837", "#555555"  # the marker differs too, for black and white


def draw_scoreboard(board: Scoreboard, path: Path) -> None:
    """Draw one panel a dataset and method to ``path`` (.png, .pdf, .svg): best on top, 95 % intervals over test images.

    Filled circles tie with the best of their panel (paired test, p > 0.05), hollow diamonds do not, crosses were not
    certified to their tolerance.
    """
    panels = [
        list(rows) for _, rows in groupby(board.rows, key=lambda r: (r.dataset, r.images, r.method, r.metric, r.shots))
    ]
    tallest = max(len(rows) for rows in panels)
    figure = Figure(figsize=(5.2 * len(panels), 1.6 + 0.36 * tallest), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, rows in zip(axes, panels, strict=True):
        _draw_panel(panel, rows)
    figure.supxlabel("filled: ties with the best; hollow: does not; bars: 95 % over test images", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_panel(axes: Axes, rows: list[ScoreRow]) -> None:
    for height, row in enumerate(reversed(rows)):
        marker = "x" if not row.converged else "o" if row.ties_with_best else "D"
        colour = _TIE if row.ties_with_best else _OTHER
        if row.interval is not None:
            axes.plot(list(row.interval), [height, height], color=colour, linewidth=1.5)
        face = "none" if marker == "D" else colour
        axes.plot(row.value, height, marker=marker, color=colour, markerfacecolor=face, markersize=7)
        axes.annotate(f"{100 * row.value:.2f}", (row.value, height), (0, 7), textcoords="offset points", fontsize=8)
    axes.set_yticks(range(len(rows)), [_name(row) for row in reversed(rows)], fontsize=9)
    axes.set_ylim(-0.6, len(rows) - 0.2)
    _logit_axis(axes, rows)
    axes.set_xlabel(f"{rows[0].metric}, % of test", fontsize=9)
    axes.set_title(f"{rows[0].dataset}, {rows[0].method}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)


def _logit_axis(axes: Axes, rows: list[ScoreRow]) -> None:
    """Scale the axis in log odds, as the paper does; linearly where a score is 0 or 1, whose logit is infinite."""
    bounds = [bound for row in rows for bound in (row.value, *(row.interval or ()))]
    if min(bounds) <= 0 or max(bounds) >= 1:
        axes.set_xlabel(f"{axes.get_xlabel()} (linear)")
    else:
        axes.set_xscale("logit")
        axes.xaxis.set_major_locator(FixedLocator(_ticks(min(bounds), max(bounds))))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _ticks(low: float, high: float) -> list[float]:
    inside = [tick for tick in _TICKS if low <= tick <= high]
    return inside if len(inside) >= 2 else [low, high]


def _name(row: ScoreRow) -> str:
    return f"{row.backbone} {row.variant}".strip()
