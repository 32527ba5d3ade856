"""Draw every figure that the findings have data for. Figure 4 needs features: ``embedding_figure``."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from penultimate.engine.analysis.curves.convergence import BudgetCurve
from penultimate.engine.analysis.curves.data_size import SizeCurve
from penultimate.engine.analysis.curves.depth import layer_of
from penultimate.engine.analysis.findings import Findings
from penultimate.engine.analysis.panel import main_rows
from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.report.figures.curves import backbone_of, budgets_figure, method_of, sizes_figure
from penultimate.engine.report.figures.depth import depth_figure
from penultimate.engine.report.figures.methods import against_figure, method_pairs, methods_figure
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.settings import settings_figure
from penultimate.engine.report.figures.transfer import Ties, averages_figure, transfer_figure
from penultimate.engine.report.names import setting_name

_SETTING_FIGURES = {"probe": "figure3", "finetune": "figure5"}


def figures(found: Findings) -> list[ReportFigure]:
    """Return the figures in the paper's order, leaving out those without trials."""
    rows = main_rows(row for row in found.board.rows if row.trial not in found.layers)
    drawn = [*_transfer(found, rows), *_settings(found)]
    if rows:
        drawn.append(methods_figure(rows))
    drawn += [
        against_figure(rows, first, second)
        for first, second in (("scratch", "finetune"), ("probe", "finetune"), ("scratch", "probe"))
        if method_pairs(rows, first, second)
    ]
    if found.readout_curves:
        drawn.append(depth_figure(found.readout_curves))
    drawn += _budgets(found.budget_curves)
    drawn += _sizes(found.size_curves)
    return drawn


def _transfer(found: Findings, rows: Sequence[ScoreRow]) -> Iterator[ReportFigure]:
    averaged = {name: each for name, each in found.analyses.items() if len(each.table.datasets) > 1}
    if averaged:
        yield averages_figure(averaged)
    for setting, analysis in found.analyses.items():
        panel = found.panels[setting]
        datasets = dict(zip(panel.datasets, panel.dataset_labels, strict=True))
        ties: Ties = {
            (row.network, datasets[row.dataset, row.images]): row.ties_with_best
            for row in rows
            if row.setting == setting and (row.dataset, row.images) in datasets
        }
        yield transfer_figure(setting, analysis, ties, f"figure2_{_slug(setting)}")


def _settings(found: Findings) -> Iterator[ReportFigure]:
    for method in sorted({each.method for each in found.board.contenders}):
        contenders = [
            each
            for each in found.board.contenders
            if each.method == method and not (found.layers and layer_of(each.readout) is not None)
        ]
        times = Counter(each.backbone for each in contenders)
        several = {backbone for backbone, variants in times.items() if variants > 1}
        if several:
            name = _SETTING_FIGURES.get(method, f"settings_{method}")
            yield settings_figure([each for each in contenders if each.backbone in several], name)


def _budgets(curves: Sequence[BudgetCurve]) -> Iterator[ReportFigure]:
    by_backbone: defaultdict[str, list[BudgetCurve]] = defaultdict(list)
    for curve in curves:
        by_backbone[curve.backbone].append(curve)
    for backbone in sorted(by_backbone):
        yield budgets_figure(backbone, by_backbone[backbone], f"figure8_{_slug(backbone)}")


def _sizes(curves: Sequence[SizeCurve]) -> Iterator[ReportFigure]:
    """Draw a figure for each method that several backbones share, and for each backbone with several lines.

    A backbone that would be in neither has a figure of its own.
    """
    by_method, by_backbone = (
        _grouped(curves, lambda curve: curve.method),
        _grouped(curves, lambda curve: curve.backbone),
    )
    compared = {method for method, mine in by_method.items() if len({curve.backbone for curve in mine}) > 1}
    for method in sorted(compared):
        name = setting_name(method).lower()
        yield sizes_figure(name, by_method[method], f"figure9_{_slug(method)}", line_of=backbone_of)
    for backbone, mine in sorted(by_backbone.items()):
        if len({method_of(curve) for curve in mine}) > 1 or not compared & {curve.method for curve in mine}:
            yield sizes_figure(backbone, mine, f"figure9_{_slug(backbone)}")


def _grouped(curves: Sequence[SizeCurve], key: Callable[[SizeCurve], str]) -> dict[str, list[SizeCurve]]:
    groups: defaultdict[str, list[SizeCurve]] = defaultdict(list)
    for curve in curves:
        groups[key(curve)].append(curve)
    return groups


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_")
