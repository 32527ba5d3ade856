"""Draw accuracy by depth: a line a network over its blocks or stages, and its other readouts beside."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from penultimate.engine.analysis.curves.depth import ReadoutCurve, ReadoutScore
from penultimate.engine.analysis.statistics.log_odds import log_odds
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.style import drawable_accuracy, logit_axis, marker_style, style

_WIDEST = 9.0
"""Width in inches up to which datasets are side by side: a page scales a wider figure down, text and all."""

_APART = 0.15
"""Distance along the axis between the points of two networks at one depth, so that their intervals stay apart."""


def depth_figure(title: str, curves: Sequence[ReadoutCurve], name: str = "readouts") -> ReportFigure:
    """Draw one panel for each dataset: a line for each network over its layers, other readouts to the right of it.

    All curves are of one method.
    """
    datasets = sorted({(curve.dataset, curve.images) for curve in curves})
    labels = sorted({curve.label for curve in curves})
    hover: dict[str, str] = {}
    slots = max(len(_slots([curve for curve in curves if (curve.dataset, curve.images) == each])) for each in datasets)
    width = max(2.6, 0.4 * slots)
    columns = min(len(datasets), max(1, int(_WIDEST / width)))
    rows = ceil(len(datasets) / columns)
    with style():
        size = (0.9 + columns * width, 0.5 + 0.14 * len(labels) + 2.8 * rows)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for empty in panels[len(datasets) :]:
            empty.set_axis_off()
        for d, dataset in enumerate(datasets):
            mine = [curve for curve in curves if (curve.dataset, curve.images) == dataset]
            _panel(panels[d], mine, labels, f"d{d}", hover)
            if d % columns == 0:
                panels[d].set_ylabel("Accuracy (%)")
        handles = [panels[0].plot([], [], **marker_style(label, labels), label=label)[0] for label in labels]
        figure.legend(handles=handles, loc="outside upper center", ncols=1 if max(map(len, labels)) > 30 else 2)
    return ReportFigure(
        name=name,
        title=title,
        caption="Lines: means over the patches or the map after each block or stage, from the first to the last; "
        "right of them the readouts that are no single layer. Bars: 95 % intervals over test images. Filled: a "
        "network's best readout on each dataset and those that tie with it (paired test, p > 0.05). The axis is "
        "logit-scaled. The best on test is not to be expected again: choose the readout on val.",
        figure=figure,
        numbers={"": pd.concat([_numbers(curve) for curve in curves])},
        hover=hover,
    )


def _slots(curves: Sequence[ReadoutCurve]) -> list[str]:
    """Return the positions along the axis: the index of each layer, then the other readouts by name."""
    depth = max((score.layer for curve in curves for score in curve.layers if score.layer is not None), default=-1)
    others = sorted({score.readout for curve in curves for score in curve.scores if score.layer is None})
    return [*(str(index) for index in range(depth + 1)), *others]


def _panel(
    axes: Axes, curves: Sequence[ReadoutCurve], labels: Sequence[str], prefix: str, hover: dict[str, str]
) -> None:
    slots = _slots(curves)
    bounds: list[float] = []
    for number, curve in enumerate(curves):
        marks = marker_style(curve.label, labels)
        shift = _APART * (number - (len(curves) - 1) / 2)
        x_of = {score.readout: slots.index(_slot(score)) + shift for score in curve.scores}
        y_of = {score.readout: _drawable(score.value, curve.n_test) for score in curve.scores}
        layers = [score.readout for score in curve.layers]
        axes.plot([x_of[each] for each in layers], [y_of[each] for each in layers], color=marks["color"], zorder=1)
        for s, score in enumerate(curve.scores):
            x, y = x_of[score.readout], y_of[score.readout]
            low, high = (_drawable(end, curve.n_test) for end in score.interval or (score.value, score.value))
            axes.vlines(x, low, high, color=marks["color"], linewidth=0.8, zorder=2)
            gid = f"{prefix}{labels.index(curve.label)}s{s}"
            fill: dict[str, Any] = {} if score.ties_with_best else {"markerfacecolor": "white"}
            axes.plot([x], [y], linestyle="none", **marks, **fill, zorder=3, gid=gid)
            hover[gid] = _described(curve, score)
            bounds += [low, high, y]
    logit_axis(axes, "y", np.array(bounds))
    num_layers = sum(slot.isdecimal() for slot in slots)
    step = max(1, ceil(num_layers / 12))
    shown = [index for index, slot in enumerate(slots) if not slot.isdecimal() or index % step == 0]
    rotate = any(not slots[index].isdecimal() for index in shown)
    axes.set_xticks(shown, [slots[index] for index in shown])
    if rotate:
        for tick, index in zip(axes.get_xticklabels(), shown, strict=True):
            if not slots[index].isdecimal():
                tick.set(rotation=40, ha="right", rotation_mode="anchor")
    if 0 < num_layers < len(slots):
        axes.axvline(num_layers - 0.5, color="#c9c9c9", linewidth=0.6, zorder=0)
    axes.set_xlim(-0.5, len(slots) - 0.5)
    axes.set_xlabel("Block or stage, from 0; other readouts" if num_layers < len(slots) else "Block or stage, from 0")
    axes.set_title(curves[0].dataset)


def _slot(score: ReadoutScore) -> str:
    return score.readout if score.layer is None else str(score.layer)


def _drawable(value: float, num_test: int) -> float:
    """Return an accuracy strictly between 0 and 1, as a logit axis needs."""
    one = np.array([value])
    return float(drawable_accuracy(one, log_odds(one, num_test=num_test).values)[0])


def _described(curve: ReadoutCurve, score: ReadoutScore) -> str:
    sure = "" if score.interval is None else f" ({100 * score.interval[0]:.1f} to {100 * score.interval[1]:.1f})"
    standing = "; the best" if score.is_best else "; ties with the best" if score.ties_with_best else ""
    return f"{curve.label} {score.readout} on {curve.dataset}: {100 * score.value:.2f} %{sure}{standing}"


def _numbers(curve: ReadoutCurve) -> pd.DataFrame:
    shared: dict[str, Any] = {
        "dataset": curve.dataset,
        "method": curve.method,
        "backbone": curve.backbone,
        "variant": curve.variant,
        "metric": curve.metric,
    }
    return pd.DataFrame(
        [
            shared
            | {
                "readout": score.readout,
                "layer": score.layer,
                "accuracy": score.value,
                "low": None if score.interval is None else score.interval[0],
                "high": None if score.interval is None else score.interval[1],
                "is_best": score.is_best,
                "ties_with_best": score.ties_with_best,
                "p_value": score.p_value,
                "p_value_holm": score.p_value_holm,
                "n_test": curve.n_test,
            }
            for score in curve.scores
        ]
    ).astype({"layer": "Int64"})
