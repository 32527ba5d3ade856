"""Draw reliability: how often predictions are right against the probability they were given."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from penultimate.engine.analysis.calibration import Calibration
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.style import GREY, colour_of, marker_of, style
from penultimate.engine.scoring.reliability import Reliability

FEWEST = 10
"""Number of predictions in a bin below which it is not drawn; the table has it."""


def reliability_figure(
    name: str, title: str, lines: Sequence[str], calibrations: Sequence[Calibration]
) -> ReportFigure:
    """Draw one line for each trial as it is, and beside it as calibrated where it has a temperature."""
    hover: dict[str, str] = {}
    columns = ["as fitted", "with the temperature"] if any(each.after for each in calibrations) else ["as fitted"]
    tables = []
    with style():
        figure = Figure(figsize=(3.9, 2.4 + 0.14 * len(lines)), layout="constrained")
        drawn = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, column in zip(drawn, columns, strict=True):
            axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.7, linestyle=(0, (2, 2)))
            for index, (line, each) in enumerate(zip(lines, calibrations, strict=True)):
                found = each.before if column == "as fitted" else each.after
                if found is None:
                    continue
                marks = {"color": colour_of(line, lines), "marker": marker_of(line, lines)}
                drawn_B = np.flatnonzero(found.count_B >= FEWEST)
                confidence, accuracy = 100 * found.confidence_B[drawn_B], 100 * found.accuracy_B[drawn_B]
                axes.plot(confidence, accuracy, color=marks["color"], linewidth=0.9)
                for b in drawn_B.tolist():
                    gid = f"c{columns.index(column)}l{index}b{b}"
                    point = [100 * found.confidence_B[b]], [100 * found.accuracy_B[b]]
                    axes.plot(*point, **marks, linestyle="none", markersize=3.5, gid=gid)
                    hover[gid] = _hover(line, column, found, b)
                axes.plot([], [], **marks, label=line)
                tables.append(_table(found, line, column))
            axes.set_title(column)
            axes.set_xlabel("probability given (%)")
            axes.set_xlim(0, 102)
            axes.set_ylim(0, 102)
            axes.set_aspect("equal")
        drawn[0].set_ylabel("predictions that are right (%)")
        figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower left")
    return ReportFigure(
        name=name,
        title=title,
        caption="Test images in 15 bins of the probability of their predicted class, where a bin has at least "
        f"{FEWEST}; on the dashed line a probability is what it says. The temperature is fitted on val.",
        figure=figure,
        numbers={"": pd.concat(tables)},
        hover=hover,
    )


def _hover(line: str, column: str, found: Reliability, b: int) -> str:
    return (
        f"{line}, {column}: {100 * found.accuracy_B[b]:.1f} % of {found.count_B[b]:,} predictions given "
        f"{100 * found.confidence_B[b]:.1f} % are right"
    )


def _table(found: Reliability, line: str, column: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "line": line,
            "probabilities": column,
            "confidence": np.asarray(found.confidence_B),
            "accuracy": np.asarray(found.accuracy_B),
            "count": np.asarray(found.count_B),
        }
    )
