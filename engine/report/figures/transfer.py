"""Draw figures 1 and 2: transfer accuracy against ImageNet accuracy, dataset by dataset and on average."""

# Shapes: M models, D datasets.

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import expit

from penultimate.engine.analysis.analysis import Analysis
from penultimate.engine.analysis.statistics.correlation import Regression, regression_band
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.style import BLUE, GREEN, INK, PALE, drawable_accuracy, logit_axis, style
from penultimate.engine.report.names import setting_name

Ties = Mapping[tuple[str, str], bool | None]
"""(model, dataset) -> True where the model ties with the best on that dataset, None where it was not tested."""

_MOST_COLUMNS = 3
_TITLE_LETTERS = 42
"""Number of letters that fit above a panel of figure 1."""

_FACES = {True: GREEN, False: "white", None: PALE}

_MARKS = (
    "Green: not significantly different from the best (p > 0.05, uncorrected); white: different; grey: not tested. "
    "Line and band: least squares on log odds with its 95 % bootstrap interval over models."
)


def averages_figure(analyses: Mapping[str, Analysis]) -> ReportFigure:
    """Draw figure 1: mean log odds against ImageNet accuracy, one panel for each setting."""
    with style():
        names = _numbered(list(analyses.values()))
        columns = min(_MOST_COLUMNS, len(analyses))
        rows, key = ceil(len(analyses) / columns), _key_width(names)
        figure = Figure(figsize=(3.4 * columns + key, 3.4 * rows), layout="constrained")
        grid = figure.add_gridspec(rows, columns + 1, width_ratios=[3.4] * columns + [key])
        hover: dict[str, str] = {}
        numbers, lines = [], []
        for index, (setting, analysis) in enumerate(analyses.items()):
            axes = figure.add_subplot(grid[index // columns, index % columns])
            points, line = _average_panel(axes, analysis, names, f"c{index}-", hover)
            axes.set_title(f"{fill(setting_name(setting), _TITLE_LETTERS)}\n{_r(analysis)}")
            numbers.append(points.assign(setting=setting))
            lines.append(line.assign(setting=setting))
        _key(figure.add_subplot(grid[:, -1]), names)
    return ReportFigure(
        name="figure1",
        title=_averages_title(analyses),
        caption=f"Mean log odds over datasets; error bars are Morey's standard errors over datasets. {_MARKS}",
        figure=figure,
        numbers={"": pd.concat(numbers), "lines": pd.concat(lines)},
        hover=hover,
    )


def transfer_figure(title: str, analysis: Analysis, ties: Ties, name: str = "figure2") -> ReportFigure:
    """Draw figure 2 for one setting: one panel for each dataset, and the average of several datasets.

    Where ``ties`` is empty, ties are marked in the average only.
    """
    hover: dict[str, str] = {}
    with style():
        draw = _grid if len(analysis.table.datasets) > 1 else _single
        figure, points, lines = draw(analysis, ties, hover)
    tested = "" if ties else " Without per-sample predictions ties are marked in the average alone."
    return ReportFigure(
        name=name,
        title=title,
        caption=f"Transfer accuracy against ImageNet accuracy. Axes are logit-scaled. {_MARKS} Error bars of the "
        f"average are Morey's standard errors.{tested}",
        figure=figure,
        numbers={"": points, "lines": lines},
        hover=hover,
    )


def _averages_title(analyses: Mapping[str, Analysis]) -> str:
    r = [each.correlation.pearson_r for each in analyses.values()]
    if len(r) == 1:
        return f"Averaged over datasets, r = {r[0]:.2f} between ImageNet and transfer accuracy"
    return f"Averaged over datasets, r = {min(r):.2f} to {max(r):.2f} between ImageNet and transfer accuracy"


_Drawing = tuple[Figure, pd.DataFrame, pd.DataFrame]


def _single(analysis: Analysis, ties: Ties, hover: dict[str, str]) -> _Drawing:
    names = _numbered([analysis])
    figure = Figure(figsize=(3.4 + _key_width(names), 3.3), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[3.4, _key_width(names)])
    axes = figure.add_subplot(grid[0])
    points, line = _dataset_panel(axes, analysis, 0, ties, hover, names)
    axes.set_title(f"{analysis.table.datasets[0]}   {_r(analysis)}")
    axes.set_xlabel("ImageNet top-1 accuracy (%)")
    axes.set_ylabel("Transfer accuracy (%)")
    _key(figure.add_subplot(grid[1]), names)
    return figure, points, line


def _grid(analysis: Analysis, ties: Ties, hover: dict[str, str]) -> _Drawing:
    datasets = analysis.table.datasets
    columns = min(4, ceil(len(datasets) ** 0.5))
    rows = max(2, ceil(len(datasets) / columns))
    names = _numbered([analysis])
    key = _key_width(names)
    figure = Figure(figsize=(1.9 * columns + 3.8 + key, 1.75 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, columns + 2, width_ratios=[1.9] * columns + [3.8, key])
    drawn = []
    for d, dataset in enumerate(datasets):
        axes = figure.add_subplot(grid[d // columns, d % columns])
        drawn.append(_dataset_panel(axes, analysis, d, ties, hover, {}))
        if d % columns == 0:
            axes.set_ylabel("Transfer accuracy (%)")
        if d + columns >= len(datasets):
            axes.set_xlabel("ImageNet top-1 (%)")
        axes.set_title(f"{dataset}   r = {analysis.by_dataset[dataset].pearson_r:.2f}")
    average = figure.add_subplot(grid[:, columns])
    drawn.append(_average_panel(average, analysis, names, "mean-", hover))
    average.set_title(f"Average of {len(datasets)} datasets   {_r(analysis)}")
    _key(figure.add_subplot(grid[:, columns + 1]), names)
    return figure, pd.concat([points for points, _ in drawn]), pd.concat([line for _, line in drawn])


def _dataset_panel(
    axes: Axes, analysis: Analysis, d: int, ties: Ties, hover: dict[str, str], names: Mapping[str, int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw one dataset's panel, numbering the models in ``names``; return its tables of points and of the line."""
    table, dataset = analysis.table, analysis.table.datasets[d]
    log_odds_M = analysis.log_odds.values[:, d]
    shown_M = drawable_accuracy(table.accuracy_MD[:, d], log_odds_M)
    imagenet_M = drawable_accuracy(table.imagenet_M, analysis.imagenet.values)
    line = regression_band(
        analysis.imagenet.values, log_odds_M, seed=analysis.seed, num_resamples=analysis.num_resamples
    )
    _line(axes, line, in_log_odds=False)
    of = f", n = {table.num_test_D[d]:,.0f}" if table.num_test_D is not None else ""
    for m, model in enumerate(table.models):
        gid = f"d{d}m{m}"
        _point(axes, imagenet_M[m], shown_M[m], ties.get((model, dataset)), gid, names.get(model))
        hover[gid] = (
            f"{model}: {dataset} {100 * table.accuracy_MD[m, d]:.2f} %{of}; ImageNet {100 * table.imagenet_M[m]:.2f} %"
        )
    logit_axis(axes, "x", imagenet_M, at_most=4)
    logit_axis(axes, "y", shown_M, at_most=5)
    points = pd.DataFrame(
        {
            "panel": dataset,
            "model": table.models,
            "imagenet": table.imagenet_M,
            "accuracy": table.accuracy_MD[:, d],
            "log_odds": log_odds_M,
            "ties_with_best": [ties.get((model, dataset)) for model in table.models],
        }
    )
    return points, _line_table(dataset, line)


def _average_panel(
    axes: Axes, analysis: Analysis, names: Mapping[str, int], prefix: str, hover: dict[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = analysis.table
    mean_M, error_M = analysis.log_odds.values.mean(axis=1), analysis.adjusted.standard_error_M
    imagenet_M = drawable_accuracy(table.imagenet_M, analysis.imagenet.values)
    _line(axes, analysis.regression, in_log_odds=True)
    for m, model in enumerate(table.models):
        gid = f"{prefix}m{m}"
        if np.isfinite(error_M[m]):
            axes.errorbar(imagenet_M[m], mean_M[m], yerr=error_M[m], color=INK, elinewidth=0.7, capsize=0, zorder=2)
        _point(axes, imagenet_M[m], mean_M[m], analysis.ties_with_best[m], gid, names[model])
        error = f" ± {error_M[m]:.3f}" if np.isfinite(error_M[m]) else ""
        hover[gid] = f"{model}: mean log odds {mean_M[m]:.3f}{error}; ImageNet {100 * table.imagenet_M[m]:.2f} %"
    logit_axis(axes, "x", imagenet_M, at_most=5)
    finite_error_M = np.nan_to_num(error_M)
    low, high = float((mean_M - finite_error_M).min()), float((mean_M + finite_error_M).max())
    axes.set_ylim(
        low - 0.08 * (high - low) - 0.02, high + 0.08 * (high - low) + 0.02
    )  # a wide band must not squeeze it
    axes.set_xlabel("ImageNet top-1 accuracy (%)")
    axes.set_ylabel("Transfer accuracy (log odds)")
    points = pd.DataFrame(
        {
            "panel": "average",
            "model": table.models,
            "imagenet": table.imagenet_M,
            "log_odds": mean_M,
            "standard_error": error_M,
            "ties_with_best": analysis.ties_with_best,
        }
    )
    return points, _line_table("average", analysis.regression)


def _point(axes: Axes, x: float, y: float, tie: bool | None, gid: str, number: int | None) -> None:
    axes.plot([x], [y], "o", markerfacecolor=_FACES[tie], markeredgecolor=INK, markeredgewidth=0.8, zorder=3, gid=gid)
    if number is not None:
        axes.annotate(str(number), (x, y), (4, 3), textcoords="offset points", fontsize=6.5, color=INK)


def _line(axes: Axes, line: Regression, *, in_log_odds: bool) -> None:
    low, middle, high = (y if in_log_odds else expit(y) for y in (line.low_G, line.line_G, line.high_G))
    axes.fill_between(expit(line.x_G), low, high, color=BLUE, alpha=0.15, linewidth=0, zorder=0)
    axes.plot(expit(line.x_G), middle, color=BLUE, zorder=1)


def _line_table(panel: str, line: Regression) -> pd.DataFrame:
    return pd.DataFrame(
        {"panel": panel, "logit_imagenet": line.x_G, "line": line.line_G, "low": line.low_G, "high": line.high_G}
    )


def _numbered(analyses: Sequence[Analysis]) -> dict[str, int]:
    """Number the models of all panels from 1, in the order of ImageNet accuracy."""
    top1 = {
        model: top for each in analyses for model, top in zip(each.table.models, each.table.imagenet_M, strict=True)
    }
    return {model: number for number, model in enumerate(sorted(top1, key=lambda name: (top1[name], name)), start=1)}


def _key_width(names: Mapping[str, int]) -> float:
    """Return the width of the key in inches: that of the longest name, and at least that of the marks' legend."""
    return max(2.0, 0.4 + 0.055 * max(map(len, names)))


def _key(axes: Axes, names: Mapping[str, int]) -> None:
    """Draw the key: the model of each number, and the meaning of filled and hollow marks."""
    axes.set_axis_off()
    lines = [f"{number}  {name}" for name, number in names.items()]
    size = 6.5 if len(lines) <= 20 else 5
    listed = axes.text(0, 1, "\n".join(lines), va="top", fontsize=size, linespacing=1.35, transform=axes.transAxes)
    listed.set_in_layout(False)  # a long name must not squeeze the panels
    for tie, text in ((True, "ties with the best"), (False, "does not"), (None, "not tested")):
        axes.plot([], [], "o", markerfacecolor=_FACES[tie], markeredgecolor=INK, markeredgewidth=0.8, label=text)
    axes.legend(loc="lower left", borderpad=0, handletextpad=0.2)


def _r(analysis: Analysis) -> str:
    low, high = analysis.correlation.r_interval_models
    return f"r = {analysis.correlation.pearson_r:.2f} ({low:.2f} to {high:.2f})"
