"""Draw figures 6 and 7: methods compared by dataset, and two methods by backbone and dataset."""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import expit

from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.style import (
    GREY,
    INK,
    METHOD_HATCHES,
    colour_of,
    logit_axis,
    marker_style,
    style,
)
from penultimate.engine.report.names import setting_name
from penultimate.store.trials.trial import CHOSEN, OF_FEATURES

_ORDER = ("probe", "knn", "finetune", "scratch")

_EDGE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4, "linestyle": "none"}
"""Edge of points that may overlap."""


def methods_figure(rows: Sequence[ScoreRow]) -> ReportFigure:
    """Draw figure 6: one panel for each dataset, each method's mean over backbones as a bar, backbones as points."""
    datasets = sorted({row.dataset for row in rows})
    methods = _methods(rows)
    backbones = sorted({row.backbone for row in rows})
    columns = min(6, len(datasets))
    lines = ceil(len(datasets) / columns)
    hover: dict[str, str] = {}
    bars: list[dict[str, Any]] = []
    with style():
        figure = Figure(
            figsize=(max(3.2, (0.7 + 0.45 * len(methods)) * columns + 2.2), 2.3 * lines), layout="constrained"
        )
        grid = figure.add_gridspec(lines, columns + 1, width_ratios=[1.0] * columns + [1.2])
        for d, dataset in enumerate(datasets):
            axes = figure.add_subplot(grid[d // columns, d % columns])
            mine = [row for row in rows if row.dataset == dataset]
            bars += _bars(axes, mine, methods, backbones, f"d{d}", hover)
            axes.set_title(dataset)
            if d % columns == 0:
                axes.set_ylabel("Accuracy (%)")
        key = figure.add_subplot(grid[:, -1])
        key.set_axis_off()
        for method in methods:
            key.bar([0], [np.nan], **_bar(method, methods), label=setting_name(method))
        for backbone in backbones:
            key.plot([], [], **marker_style(backbone, backbones), linestyle="none", label=backbone)
        key.legend(loc="upper left", borderpad=0)
    return ReportFigure(
        name="figure6",
        title=_best_method(bars),
        caption="Methods dataset by dataset. Bars: mean over backbones of log odds, drawn as accuracy; error "
        "bars: standard error over backbones. "
        "Points: backbones. Axes are logit-scaled; bars start at the bottom of the axis, not at zero.",
        figure=figure,
        numbers={"": _row_numbers(rows), "bars": pd.DataFrame(bars)},
        hover=hover,
    )


def _best_method(bars: Sequence[dict[str, Any]]) -> str:
    """Say on how many datasets the method that is most often best is best."""
    table = pd.DataFrame(bars)
    best = table.loc[table.groupby("dataset")["mean_log_odds"].idxmax(), "method"]
    method, times = best.value_counts().index[0], int(best.value_counts().iloc[0])
    if len(best) == 1:
        return f"{setting_name(method)} is best on {table['dataset'].iloc[0]}"
    return f"{setting_name(method)} is best on {times} of {len(best)} datasets"


def _bars(
    axes: Axes,
    rows: Sequence[ScoreRow],
    methods: Sequence[str],
    backbones: Sequence[str],
    prefix: str,
    hover: dict[str, str],
) -> list[dict[str, object]]:
    logit_axis(axes, "y", expit([row.log_odds for row in rows]), at_most=5)
    bottom = axes.get_ylim()[0]
    numbers: list[dict[str, object]] = []
    for index, method in enumerate(methods):
        mine = [row for row in rows if row.method == method]
        if not mine:
            continue
        log_odds = np.array([row.log_odds for row in mine])
        mean = float(log_odds.mean())
        error = float(log_odds.std(ddof=1)) / sqrt(len(mine)) if len(mine) > 1 else float("nan")
        axes.bar(index, expit(mean) - bottom, bottom=bottom, width=0.8, **_bar(method, methods))
        if np.isfinite(error):
            axes.vlines(index, expit(mean - error), expit(mean + error), color=INK, linewidth=1.0, zorder=2)
        for number, row in enumerate(sorted(mine, key=lambda row: (row.backbone, row.variant))):
            gid = f"{prefix}p{index}n{number}"
            offset = 0.6 * ((number + 0.5) / len(mine) - 0.5)
            axes.plot(
                [index + offset],
                [expit(row.log_odds)],
                **marker_style(row.backbone, backbones),
                **_EDGE,
                zorder=3,
                gid=gid,
            )
            hover[gid] = _hover_text(row)
        numbers.append(
            {
                "dataset": rows[0].dataset,
                "method": method,
                "mean_log_odds": mean,
                "standard_error": error,
                "n": len(mine),
            }
        )
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(methods) - 0.4)
    return numbers


def against_figure(rows: Sequence[ScoreRow], first: str, second: str) -> ReportFigure:
    """Draw figure 7: ``second`` (y) against ``first`` (x), a point for each backbone and dataset that has both.

    Where either was run in several variants of a readout, each combination is a point.
    """
    pairs = method_pairs(rows, first, second)
    datasets = sorted({row.dataset for row, _ in pairs})
    hover: dict[str, str] = {}
    with style():
        figure = Figure(figsize=(5.2, 3.9), layout="constrained")
        axes = figure.subplots()
        values = expit([row.log_odds for pair in pairs for row in pair])
        for which in ("x", "y"):
            logit_axis(axes, which, values)
        axes.plot(axes.get_xlim(), axes.get_xlim(), color=GREY, linewidth=0.7, zorder=0)
        for number, (one, other) in enumerate(pairs):
            gid = f"n{number}"
            axes.plot(
                [expit(one.log_odds)], [expit(other.log_odds)], **marker_style(one.dataset, datasets), **_EDGE, gid=gid
            )
            hover[gid] = (
                f"{one.backbone} on {one.dataset}: {setting_name(first).lower()} {_score(one)}, "
                f"{setting_name(second).lower()} {_score(other)}, n = {one.n_test:,}"
            )
        for dataset in datasets:
            axes.plot([], [], **marker_style(dataset, datasets), linestyle="none", label=dataset)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
        axes.set_aspect("equal", adjustable="box")
        axes.set_xlabel(f"{setting_name(first)} (%)")
        axes.set_ylabel(f"{setting_name(second)} (%)")
    better = sum(other.log_odds > one.log_odds for one, other in pairs)
    return ReportFigure(
        name=f"figure7_{first}_{second}",
        title=f"{setting_name(second)} is better than {setting_name(first).lower()} in {better} of {len(pairs)}",
        caption="A point a backbone and dataset; both axes logit-scaled; on the line both are equal.",
        figure=figure,
        numbers={"": _row_numbers([row for pair in pairs for row in pair])},
        hover=hover,
    )


def _bar(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """Return the style of a bar: pale, so that points are seen; hatched, so that it is distinct in black and white."""
    hatch = METHOD_HATCHES.get(method, "")
    return {"color": colour_of(method, methods), "alpha": 0.45, "hatch": hatch, "edgecolor": "white", "linewidth": 0}


def method_pairs(rows: Sequence[ScoreRow], first: str, second: str) -> list[tuple[ScoreRow, ScoreRow]]:
    """Return the pairs of rows of two methods by the same backbone on the same images, and of the same readout.

    A trained network has no readout, and is paired with each.
    """
    others: defaultdict[tuple[str, str], list[ScoreRow]] = defaultdict(list)
    for row in rows:
        if row.method == second:
            others[row.images, row.backbone].append(row)
    return [
        (row, other)
        for row in rows
        if row.method == first
        for other in others[row.images, row.backbone]
        if not {first, second} <= set(OF_FEATURES) or _readout(row) == _readout(other)
    ]


def _readout(row: ScoreRow) -> str:
    """Return the readout, or that it was chosen, whichever it was: another method may choose another."""
    return CHOSEN if "readout" in row.chosen else row.readout


def _methods(rows: Sequence[ScoreRow]) -> list[str]:
    """Return the methods of the rows in the paper's order, others after them."""
    found = {row.method for row in rows}
    return [method for method in _ORDER if method in found] + sorted(found - set(_ORDER))


def _hover_text(row: ScoreRow) -> str:
    return f"{row.backbone} on {row.dataset}, {row.method}: {_score(row)}, n = {row.n_test:,}"


def _score(row: ScoreRow) -> str:
    return f"{100 * row.value:.2f} %" + (f" ({row.variant})" if row.variant else "")


def _row_numbers(rows: Sequence[ScoreRow]) -> pd.DataFrame:
    fields = ("dataset", "backbone", "variant", "method", "metric", "value", "log_odds", "n_test", "trial")
    return pd.DataFrame([{field: getattr(row, field) for field in fields} for row in rows], columns=list(fields))
