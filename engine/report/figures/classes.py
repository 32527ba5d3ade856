"""Draw the accuracy of each class with its interval, the hardest on top, and the matrix of confusions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from penultimate.engine.analysis.class_scores import ClassScore, ClassScores
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.style import BLUE, INK, PALE, style

MOST_BARS = 20
"""Number of classes that are drawn, the hardest; a table has all."""

LARGEST_MATRIX = 20
"""Number of classes up to which the matrix of confusions can be read."""


def class_bars_figure(name: str, title: str, scores: ClassScores) -> ReportFigure:
    """Draw a bar a class, of the ``MOST_BARS`` hardest, with 95 % intervals over test images."""
    shown = scores.classes[:MOST_BARS]
    hover: dict[str, str] = {}
    with style():
        figure = Figure(figsize=(3.9, 0.6 + 0.21 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for index, each in enumerate(shown):
            gid = f"k{index}"
            axes.barh(index, 100 * each.accuracy, color=BLUE, height=0.7, alpha=0.55, gid=None)
            axes.plot([100 * bound for bound in each.interval], [index, index], color=INK, linewidth=0.8)
            axes.plot([100 * each.accuracy], [index], "|", color=INK, markersize=8, gid=gid)
            low, high = (100 * bound for bound in each.interval)
            hover[gid] = (
                f"{each.name}: {each.num_right} of {each.num_test} right, {100 * each.accuracy:.1f} % "
                f"({low:.1f} to {high:.1f})"
            )
        axes.set_yticks(range(len(shown)), [_short(each.name) for each in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("test images of the class that are right (%)")
        axes.grid(axis="x", color=PALE, linewidth=0.4)
        axes.set_axisbelow(True)
    of = f"The {len(shown)} hardest of {len(scores.classes)} classes. " if len(shown) < len(scores.classes) else ""
    return ReportFigure(
        name=name,
        title=title,
        caption=f"{of}Lines: 95 % intervals over the class's test images (Wilson).",
        figure=figure,
        numbers={"": _table(scores.classes)},
        hover=hover,
    )


def confusion_figure(name: str, title: str, scores: ClassScores) -> ReportFigure:
    """Draw the matrix of confusions, rows true and columns predicted, each row divided by its sum."""
    counts = scores.matrix_KK
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(scores.names)
    hover: dict[str, str] = {}
    with style():
        side = 1.3 + 0.24 * size
        figure = Figure(figsize=(max(side, 2.6), max(side, 2.4)), layout="constrained")
        axes = figure.subplots()
        axes.set_aspect("equal")
        for t, p in np.argwhere(counts).tolist():
            gid = f"t{t}p{p}"
            width = max(float(np.sqrt(share[t, p])), 0.12)
            colour = PALE if t == p else BLUE
            axes.fill_between(
                [p - width / 2, p + width / 2], t - width / 2, t + width / 2, color=colour, linewidth=0, gid=gid
            )
            hover[gid] = f"{counts[t, p]} of {counts[t].sum()} {scores.names[t]} are taken for {scores.names[p]}"
        axes.set_xticks(range(size), [_short(each) for each in scores.names], rotation=90)
        axes.set_yticks(range(size), [_short(each) for each in scores.names])
        axes.set_xlim(-0.6, size - 0.4)
        axes.set_ylim(size - 0.4, -0.6)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
    return ReportFigure(
        name=name,
        title=title,
        caption="The area of a square is the part of the true class's test images. Grey: right.",
        figure=figure,
        numbers={
            "": pd.DataFrame(counts, index=list(scores.names), columns=list(scores.names)).reset_index(names="true")
        },
        hover=hover,
    )


def _table(classes: Sequence[ClassScore]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "class": [each.name for each in classes],
            "num_test": [each.num_test for each in classes],
            "num_right": [each.num_right for each in classes],
            "accuracy": [each.accuracy for each in classes],
            "low": [each.interval[0] for each in classes],
            "high": [each.interval[1] for each in classes],
        }
    )


def _short(name: str, letters: int = 22) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
