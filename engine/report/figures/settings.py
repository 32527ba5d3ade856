"""Draw figures 3 and 5: average transfer accuracy by training setting, of fixed features and fine-tuned."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from penultimate.engine.analysis.scoreboard import Contender
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.style import logit_axis, marker_style, style
from penultimate.engine.report.names import setting_name


def settings_figure(contenders: Sequence[Contender], name: str) -> ReportFigure:
    """Draw one method's contenders of backbones with several variants: figure 3 (``probe``) or 5 (``finetune``).

    Settings are ordered from the one that transfers worst on average to the best. ImageNet accuracy by setting is
    drawn below where it is known.
    """
    variants = _by_mean(contenders)
    backbones = sorted({each.backbone for each in contenders})
    known = [each.imagenet_top1 for each in contenders if each.imagenet_top1 is not None]
    hover: dict[str, str] = {}
    with style():
        figure = Figure(figsize=(1.6 + 1.1 * len(variants), 4.4 if known else 3.2), layout="constrained")
        heights = [2, 1] if known else [1]
        panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for b, backbone in enumerate(backbones):
            mine = sorted((c for c in contenders if c.backbone == backbone), key=lambda c: variants.index(c.variant))
            shift = 0.08 * (b - (len(backbones) - 1) / 2)
            x_values = [variants.index(each.variant) + shift for each in mine]
            _transfer(panels[0], mine, x_values, backbones, f"b{b}", hover)
            if known:
                _imagenet(panels[1], mine, x_values, backbones)
        if known:
            logit_axis(panels[1], "y", known, at_most=4)
            panels[1].set_ylabel("ImageNet top-1 (%)")
        panels[0].set_ylabel("Avg. transfer accuracy (log odds)")
        panels[0].legend()
        panels[-1].set_xticks(range(len(variants)), [v.replace(", ", "\n") or "default" for v in variants])
    return ReportFigure(
        name=name,
        title=f"{variants[-1] or 'The default'} transfers best on average "
        f"({setting_name(contenders[0].method).lower()})",
        caption="Average transfer accuracy by training setting. Mean log odds over datasets with Morey's "
        "standard errors. Filled: not significantly different from "
        "the best of the method (paired t-test over datasets, p > 0.05).",
        figure=figure,
        numbers={"": pd.DataFrame([_numbers(each) for each in contenders])},
        hover=hover,
    )


def _transfer(
    axes: Axes,
    contenders: Sequence[Contender],
    x_values: Sequence[float],
    backbones: Sequence[str],
    prefix: str,
    hover: dict[str, str],
) -> None:
    marks = marker_style(contenders[0].backbone, backbones)
    axes.plot(x_values, [each.mean_log_odds for each in contenders], linewidth=0.6, color=marks["color"])
    for number, (x, each) in enumerate(zip(x_values, contenders, strict=True)):
        gid, error = f"{prefix}v{number}", each.standard_error
        if error is not None:
            axes.errorbar(x, each.mean_log_odds, yerr=error, color=marks["color"], elinewidth=0.8)
        face = marks["color"] if each.ties_with_best else "white"
        axes.plot([x], [each.mean_log_odds], **marks, markerfacecolor=face, linestyle="none", gid=gid)
        error_text = "" if error is None else f" ± {error:.3f}"
        hover[gid] = f"{each.backbone}, {each.variant}: mean log odds {each.mean_log_odds:.3f}{error_text}"
    axes.plot([], [], **marks, linewidth=0.6, label=contenders[0].backbone)


def _imagenet(axes: Axes, contenders: Sequence[Contender], x_values: Sequence[float], backbones: Sequence[str]) -> None:
    top1 = [np.nan if each.imagenet_top1 is None else each.imagenet_top1 for each in contenders]
    axes.plot(x_values, top1, **marker_style(contenders[0].backbone, backbones), linewidth=0.6)


def _by_mean(contenders: Sequence[Contender]) -> list[str]:
    means: defaultdict[str, list[float]] = defaultdict(list)
    for each in contenders:
        means[each.variant].append(each.mean_log_odds)
    return sorted(means, key=lambda variant: (float(np.mean(means[variant])), variant))


def _numbers(each: Contender) -> dict[str, object]:
    return {
        "backbone": each.backbone,
        "variant": each.variant,
        "method": each.method,
        "mean_log_odds": each.mean_log_odds,
        "standard_error": each.standard_error,
        "ties_with_best": each.ties_with_best,
        "imagenet_top1": each.imagenet_top1,
        "datasets": " ".join(each.datasets),
    }
