"""Draw a forest plot: a name, a value with its interval and its standing in each row, the best on top."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.style import GREEN, GREY, INK, PALE, logit_axis, style

Standing = Literal["best", "tie", "behind", "untested"]

WIDTH = 3.9
"""Width in inches: at the largest scale of a page 450 pixels, so that a phone shows it without scrolling."""

ROW = 0.4
"""Height of a row in inches: a line of text and the interval below it."""

_LINE = 0.34
"""Height of each further line of a name, in rows."""

_NAME_LETTERS = 34
"""Letters of a name's line that fit left of the value and its interval, in bold."""

_MARKS: dict[Standing, dict[str, Any]] = {
    "best": {"marker": "o", "color": GREEN, "markerfacecolor": GREEN},
    "tie": {"marker": "o", "color": GREEN, "markerfacecolor": "white"},
    "behind": {"marker": "D", "color": GREY, "markerfacecolor": "white"},
    "untested": {"marker": "s", "color": INK, "markerfacecolor": "white"},
}
_MEANINGS: dict[Standing, str] = {
    "best": "filled circle: the best",
    "tie": "hollow circle: ties with it",
    "behind": "diamond: worse",
    "untested": "square: not tested",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ForestRow:
    """One row: a backbone, or a backbone with its method or setting."""

    name: str
    value: float
    interval: tuple[float, float] | None
    standing: Standing
    converged: bool = True
    note: str = ""
    """More for the text under the mouse, such as the number of test images."""

    @property
    def lines(self) -> str:
        """Return the name, broken into lines that fit."""
        return fill(self.name, _NAME_LETTERS)

    @property
    def height(self) -> float:
        """Return its height, as a multiple of that of a row whose name is one line."""
        return 1 + _LINE * self.lines.count("\n")


def inches_of(rows: Sequence[ForestRow]) -> float:
    """Return the height in inches of rows that are drawn."""
    return ROW * sum(row.height for row in rows)


def forest_figure(
    name: str, title: str, rows: Sequence[ForestRow], *, axis: str, caption: str, accuracy: bool = True
) -> ReportFigure:
    """Draw the rows in the order given, accuracies in per cent on a logit axis, other values on a linear one."""
    hover: dict[str, str] = {}
    with style():
        figure = Figure(figsize=(WIDTH, 0.62 + inches_of(rows)), layout="constrained")
        draw_forest(figure.subplots(), rows, axis=axis, accuracy=accuracy, hover=hover)
    met = list(dict.fromkeys(row.standing for row in rows))
    marks = "; ".join(_MEANINGS[each] for each in met) if len(rows) > 1 else ""
    crossed = "; crossed: did not converge" * (not all(row.converged for row in rows))
    return ReportFigure(
        name=name,
        title=title,
        caption=f"{caption} {marks[:1].upper()}{marks[1:]}{crossed}{'.' if marks or crossed else ''}".strip(),
        figure=figure,
        numbers={"": _numbers(rows)},
        hover=hover,
    )


def draw_forest(
    axes: Axes, rows: Sequence[ForestRow], *, axis: str, accuracy: bool = True, hover: dict[str, str]
) -> None:
    """Draw the rows into ``axes``, the first on top, and add the text of each point to ``hover``."""
    bounds = [bound for row in rows for bound in (row.value, *(row.interval or ()))]
    down = np.cumsum([row.height for row in rows])  # a name's further lines stand above its interval
    for index, row in enumerate(rows):
        _row(axes, row, -float(down[index]), f"r{index}", accuracy=accuracy, hover=hover)
    if accuracy and min(bounds) > 0 and max(bounds) < 1:
        logit_axis(axes, "x", bounds, at_most=5)
    else:
        _linear_axis(axes, bounds, percent=accuracy)
    axes.set_ylim(-float(down[-1]) - 0.45, -0.15)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(axis)
    axes.grid(axis="x", color=PALE, linewidth=0.4)
    axes.set_axisbelow(True)


def _row(axes: Axes, row: ForestRow, height: float, gid: str, *, accuracy: bool, hover: dict[str, str]) -> None:
    marks = _MARKS[row.standing]
    if row.interval is not None:
        axes.plot(list(row.interval), [height, height], color=marks["color"], linewidth=1.6, solid_capstyle="butt")
    axes.plot([row.value], [height], **marks, markeredgewidth=1.1, markersize=5.5, linestyle="none", zorder=3, gid=gid)
    if not row.converged:
        axes.plot([row.value], [height], marker="x", color=INK, markersize=4, linestyle="none", zorder=4)
    bold = "bold" if row.standing == "best" else "normal"
    line: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "bottom",
        "fontsize": 8,
    }
    axes.annotate(row.lines, (0, height), (0, 5.5), ha="left", fontweight=bold, **line)
    axes.annotate(_text(row, accuracy=accuracy), (1, height), (0, 5.5), ha="right", fontweight=bold, **line)
    hover[gid] = f"{row.name}: {_text(row, accuracy=accuracy)}{f'; {row.note}' if row.note else ''}"


def _text(row: ForestRow, *, accuracy: bool) -> str:
    scale, digits, unit = (100, 1, " %") if accuracy else (1, 2, "")
    sign = "" if accuracy else "+"
    value = f"{scale * row.value:{sign}.{digits}f}{unit}"
    if row.interval is None:
        return value
    low, high = (scale * bound for bound in row.interval)
    return f"{value}  ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def _linear_axis(axes: Axes, bounds: Sequence[float], *, percent: bool) -> None:
    pad = 0.06 * (max(bounds) - min(bounds)) or 0.05
    axes.set_xlim(min(bounds) - pad, max(bounds) + pad)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    if percent:
        axes.xaxis.set_major_formatter(lambda tick, _: f"{100 * tick:g}")


def _numbers(rows: Sequence[ForestRow]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": [row.name for row in rows],
            "value": [row.value for row in rows],
            "low": [np.nan if row.interval is None else row.interval[0] for row in rows],
            "high": [np.nan if row.interval is None else row.interval[1] for row in rows],
            "standing": [row.standing for row in rows],
            "converged": [row.converged for row in rows],
        }
    )
