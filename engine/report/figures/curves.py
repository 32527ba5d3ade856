"""Draw figures 8 and 9: accuracy against training steps and epochs, and against images a class."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import expit

from penultimate.engine.analysis.curves.convergence import BudgetCurve, first_to_fraction
from penultimate.engine.analysis.curves.data_size import SizeCurve
from penultimate.engine.analysis.statistics.log_odds import log_odds
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.style import (
    METHOD_LINES,
    doubling_axis,
    drawable_accuracy,
    fixed_ticks,
    logit_axis,
    marker_style,
    style,
)
from penultimate.engine.report.names import setting_name


def budgets_figure(title: str, curves: Sequence[BudgetCurve], name: str) -> ReportFigure:
    """Draw figure 8 for one backbone: one column for each dataset, against epochs above and against steps below."""
    datasets = sorted({curve.dataset for curve in curves})
    lines = sorted({curve.line for curve in curves})
    hover: dict[str, str] = {}
    with style():
        figure = Figure(figsize=(1.2 + 1.9 * len(datasets), 4.0), layout="constrained")
        panels = figure.subplots(2, len(datasets), squeeze=False)
        for d, dataset in enumerate(datasets):
            mine = [curve for curve in curves if curve.dataset == dataset]
            for row, unit in enumerate(("epochs", "steps")):
                axes = panels[row, d]
                for curve in mine:
                    _budget_curve(axes, curve, unit, lines, f"d{d}{unit}{lines.index(curve.line)}", hover)
                doubling_axis(axes, np.concatenate([getattr(curve, f"{unit}_B") for curve in mine]), at_most=5)
                logit_axis(axes, "y", np.concatenate([_drawable(curve) for curve in mine]), at_most=5)
                axes.set_xlabel(f"Train {unit}")
                if d == 0:
                    axes.set_ylabel("Accuracy (%)")
            panels[0, d].set_title(dataset)
        _method_legend(figure, panels[0, 0], lines)
    return ReportFigure(
        name=name,
        title=title,
        caption="Accuracy against training length. Each point is a run of its own, whose learning rate ends "
        "there. Ringed: the first budget with 90 % of "
        "the best odds at any budget. Axes are logit-scaled.",
        figure=figure,
        numbers={"": pd.concat([_budget_numbers(curve) for curve in curves])},
        hover=hover,
    )


def _drawable(curve: BudgetCurve) -> Any:
    return drawable_accuracy(curve.accuracy_B, log_odds(curve.accuracy_B, num_test=curve.num_test).values)


def _budget_curve(
    axes: Axes, curve: BudgetCurve, unit: str, lines: Sequence[str], prefix: str, hover: dict[str, str]
) -> None:
    x, y = getattr(curve, f"{unit}_B"), _drawable(curve)
    marks = marker_style(curve.line, lines)
    axes.plot(x, y, linestyle=METHOD_LINES.get(curve.method, "solid"), color=marks["color"], zorder=1)
    first = first_to_fraction(curve.accuracy_B, num_test=curve.num_test)
    ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgecolor": marks["color"]}
    axes.plot([x[first]], [y[first]], linestyle="none", **ring, zorder=2)
    for b in range(len(x)):
        gid = f"{prefix}b{b}"
        axes.plot([x[b]], [y[b]], **marks, linestyle="none", zorder=3, gid=gid)
        hover[gid] = (
            f"{curve.backbone} on {curve.dataset}, {setting_name(curve.line).lower()}: "
            f"{100 * curve.accuracy_B[b]:.2f} % after {curve.steps_B[b]:,.0f} steps, "
            f"{curve.epochs_B[b]:,.1f} epochs; n = {curve.num_test:,}"
        )


def _budget_numbers(curve: BudgetCurve) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dataset": curve.dataset,
            "backbone": curve.backbone,
            "variant": curve.variant,
            "method": curve.method,
            "steps": curve.steps_B,
            "epochs": curve.epochs_B,
            "accuracy": curve.accuracy_B,
        }
    )


def method_of(curve: SizeCurve) -> str:
    """Return the curve's line in a comparison of methods: ``method`` or ``method (variant)``."""
    return f"{curve.method} ({curve.variant})" if curve.variant else curve.method


def backbone_of(curve: SizeCurve) -> str:
    """Return the curve's line in a comparison of backbones: ``backbone`` or ``backbone (variant)``."""
    return f"{curve.backbone} ({curve.variant})" if curve.variant else curve.backbone


def sizes_figure(
    title: str, curves: Sequence[SizeCurve], name: str, *, line_of: Callable[[SizeCurve], str] = method_of
) -> ReportFigure:
    """Draw figure 9 with one panel for each dataset: the methods of one backbone, or the backbones of one method."""
    datasets = sorted({curve.dataset for curve in curves})
    lines = sorted({line_of(curve) for curve in curves})
    columns = min(4, ceil(len(datasets) ** 0.5))
    hover: dict[str, str] = {}
    with style():
        rows = ceil(len(datasets) / columns)
        figure = Figure(figsize=(1.4 + 2.1 * columns, 0.6 + 2.7 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for empty in panels[len(datasets) :]:
            empty.set_axis_off()
        for d, dataset in enumerate(datasets):
            mine = [curve for curve in curves if curve.dataset == dataset]
            for curve in mine:
                line = line_of(curve)
                marks = marker_style(line, lines) | {"linestyle": _line_style(line)}
                _size_curve(panels[d], curve, marks, f"d{d}c{lines.index(line)}", hover)
            _size_axes(panels[d], mine, dataset)
            if d % columns == 0:
                panels[d].set_ylabel("Accuracy (%)")
        _method_legend(figure, panels[0], lines)
    return ReportFigure(
        name=name,
        title=title,
        caption="Accuracy against images a class. Points: mean over subsets; error bars: standard error over "
        "subsets, none for a single one. Axes are "
        "logit-scaled.",
        figure=figure,
        numbers={"": pd.concat([_size_numbers(curve) for curve in curves])},
        hover=hover,
    )


def _size_curve(axes: Axes, curve: SizeCurve, marks: dict[str, Any], prefix: str, hover: dict[str, str]) -> None:
    y = expit(curve.log_odds_S)
    axes.plot(curve.shots_S, y, color=marks["color"], linestyle=marks["linestyle"], zorder=1)
    for s, (shots, mean) in enumerate(zip(curve.shots_S, y, strict=True)):
        error = curve.standard_error_S[s]
        if np.isfinite(error) and error > 0:
            low, high = np.clip([mean - error, mean + error], 1e-4, 1 - 1e-4)
            axes.vlines(shots, low, high, color=marks["color"], linewidth=1, zorder=2)
        gid = f"{prefix}s{s}"
        axes.plot([shots], [mean], **(marks | {"linestyle": "none"}), zorder=3, gid=gid)
        error_text = f" ± {100 * error:.2f}" if np.isfinite(error) else ""
        hover[gid] = (
            f"{curve.label} on {curve.dataset}: {100 * curve.mean_S[s]:.2f}{error_text} % with {shots} images a class, "
            f"mean of {curve.num_subsets_S[s]}"
        )


def _size_axes(axes: Axes, curves: Sequence[SizeCurve], dataset: str) -> None:
    """Scale and label the axes: images a class below, all training images above."""
    bounds = [
        np.clip(expit(curve.log_odds_S) + side * np.nan_to_num(curve.standard_error_S), 1e-4, 1 - 1e-4)
        for curve in curves
        for side in (-1, 1)
    ]
    classes = curves[0].num_classes
    doubling_axis(axes, np.concatenate([curve.shots_S for curve in curves]))
    upper = axes.secondary_xaxis(
        "top", functions=(lambda shots: np.multiply(shots, classes), lambda images: np.divide(images, classes))
    )
    fixed_ticks(upper.xaxis, [classes * shots for shots in axes.get_xticks()])
    upper.set_xlabel("Training images")
    logit_axis(axes, "y", np.concatenate(bounds), at_most=5)
    axes.set_xlabel("Images a class")
    axes.set_title(f"{dataset} ({classes} classes)")


def _size_numbers(curve: SizeCurve) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dataset": curve.dataset,
            "backbone": curve.backbone,
            "variant": curve.variant,
            "method": curve.method,
            "metric": curve.metric,
            "shots": curve.shots_S,
            "images": curve.shots_S * curve.num_classes,
            "mean": curve.mean_S,
            "standard_error": curve.standard_error_S,
            "subsets": curve.num_subsets_S,
        }
    )


def _line_style(name: str) -> Any:
    """Return the line style of a method, ignoring varied settings in brackets; solid for another name."""
    return METHOD_LINES.get(name.partition(" (")[0], "solid")


def _method_legend(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    handles = [
        axes.plot([], [], linestyle=_line_style(name), **marker_style(name, names), label=setting_name(name))[0]
        for name in names
    ]
    widest = max(len(setting_name(name)) for name in names)
    columns = int(figure.get_figwidth() / (_INCHES_A_LETTER * widest + _INCHES_A_HANDLE))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), max(1, columns)))


_INCHES_A_LETTER = 0.055
"""Width of one letter of a legend's text at 7 points, in inches."""

_INCHES_A_HANDLE = 0.55
"""Width of the line before a legend's text with the gap to the next entry, in inches."""
