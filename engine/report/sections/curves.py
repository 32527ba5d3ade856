"""Curves: accuracy as the training set grows (figure 9) and as training goes on (figure 8)."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from penultimate.engine.analysis.curves.convergence import BudgetCurve
from penultimate.engine.analysis.curves.data_size import SizeCurve
from penultimate.engine.report.figures.curves import backbone_of, budgets_figure, method_of, sizes_figure
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.names import setting_name, slug
from penultimate.engine.report.sections.section import Material, Section


def curves(material: Material) -> Section | None:
    """Return the section; None where every trial had all training images and one step budget."""
    found = material.found
    figures = [*_sizes(found.size_curves), *_budgets(found.budget_curves)]
    if not figures:
        return None
    return Section(
        id="curves",
        nav="Curves",
        title=_growth(found.size_curves) or figures[0].title,
        lead="Accuracy against images a class, and against training steps.",
        figures=figures,
    )


def _growth(curves: Sequence[SizeCurve]) -> str:
    """Say what the best line gains from the fewest to the most images a class; empty without curves."""
    if not curves:
        return ""
    sizes = sorted({int(shots) for curve in curves for shots in curve.shots_S})
    best = [max(float(each.mean_S[list(each.shots_S).index(n)]) for each in curves if n in each.shots_S) for n in sizes]
    few = f"{sizes[0]} image{'s' * (sizes[0] > 1)} a class"
    if len(sizes) == 1:
        return f"{few} give up to {100 * best[0]:.0f} %"
    return f"The best goes from {100 * best[0]:.0f} % with {few} to {100 * best[-1]:.0f} % with {sizes[-1]}"


def _budgets(curves: Sequence[BudgetCurve]) -> Iterator[ReportFigure]:
    by_backbone: defaultdict[str, list[BudgetCurve]] = defaultdict(list)
    for curve in curves:
        by_backbone[curve.backbone].append(curve)
    for backbone, mine in sorted(by_backbone.items()):
        last: defaultdict[str, list[float]] = defaultdict(list)
        for each in mine:
            last[each.line].append(float(each.accuracy_B[-1]))
        best = max(last, key=lambda line: float(np.mean(last[line])))
        steps = max(int(each.steps_B[-1]) for each in mine if each.line == best)
        ahead = "is ahead" if len(last) > 1 else f"reaches {100 * np.mean(last[best]):.1f} %"
        title = f"{backbone}: {setting_name(best).lower()} {ahead} after {steps:,} steps"
        yield budgets_figure(title, mine, f"figure8_{slug(backbone)}")


def _sizes(curves: Sequence[SizeCurve]) -> Iterator[ReportFigure]:
    """Draw a figure for each method that several backbones share, and for each backbone with several lines.

    A backbone that would be in neither has a figure of its own.
    """
    by_method = _grouped(curves, lambda curve: curve.method)
    by_backbone = _grouped(curves, lambda curve: curve.backbone)
    compared = {method for method, mine in by_method.items() if len({curve.backbone for curve in mine}) > 1}
    for method in sorted(compared):
        title = _size_title(by_method[method], backbone_of, setting_name(method).lower())
        yield sizes_figure(title, by_method[method], f"figure9_{slug(method)}", line_of=backbone_of)
    for backbone, mine in sorted(by_backbone.items()):
        if len({method_of(curve) for curve in mine}) > 1 or not compared & {curve.method for curve in mine}:
            title = _size_title(mine, lambda curve: setting_name(method_of(curve)), backbone)
            yield sizes_figure(title, mine, f"figure9_{slug(backbone)}", line_of=method_of)


def _size_title(curves: Sequence[SizeCurve], line_of: Callable[[SizeCurve], str], subject: str) -> str:
    """Say which line is ahead at the fewest and at the most images a class, on average over datasets."""
    sizes = sorted({int(shots) for curve in curves for shots in curve.shots_S})
    leaders = [_leader(curves, line_of, shots) for shots in (sizes[0], sizes[-1])]
    if len({line_of(curve) for curve in curves}) == 1:
        at = [_mean_at(curves, line_of, leaders[0], shots) for shots in (sizes[0], sizes[-1])]
        return (
            f"From {100 * at[0]:.0f} to {100 * at[1]:.0f} % from {sizes[0]} to {sizes[-1]} images a class ({subject})"
        )
    if leaders[0] == leaders[1]:
        return f"{leaders[0]} is ahead with {sizes[0]} and with {sizes[-1]} images a class ({subject})"
    return f"{leaders[0]} is ahead with {sizes[0]}, {leaders[1]} with {sizes[-1]} images a class ({subject})"


def _leader(curves: Sequence[SizeCurve], line_of: Callable[[SizeCurve], str], shots: int) -> str:
    lines = {line_of(curve) for curve in curves if shots in curve.shots_S}
    return max(sorted(lines), key=lambda line: _mean_at(curves, line_of, line, shots))


def _mean_at(curves: Sequence[SizeCurve], line_of: Callable[[SizeCurve], str], line: str, shots: int) -> float:
    mine = [curve for curve in curves if line_of(curve) == line and shots in curve.shots_S]
    return float(np.mean([curve.mean_S[list(curve.shots_S).index(shots)] for curve in mine]))


def _grouped(curves: Sequence[SizeCurve], key: Callable[[SizeCurve], str]) -> dict[str, list[SizeCurve]]:
    groups: defaultdict[str, list[SizeCurve]] = defaultdict(list)
    for curve in curves:
        groups[key(curve)].append(curve)
    return groups
