"""ImageNet accuracy against transfer accuracy: the paper's figures 1 and 2, where there are networks enough."""

from penultimate.engine.analysis.analysis import Analysis
from penultimate.engine.analysis.statistics.compare import SIGNIFICANCE
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.transfer import Ties, averages_figure, transfer_figure
from penultimate.engine.report.names import setting_name, slug
from penultimate.engine.report.sections.section import Material, Section
from penultimate.engine.report.sentences import FEWEST_NETWORKS


def imagenet(material: Material) -> Section | None:
    """Return the section; None where no setting has ``FEWEST_NETWORKS`` networks of known ImageNet accuracy."""
    found = material.found
    enough = {name: each for name, each in found.analyses.items() if each.correlation.num_models >= FEWEST_NETWORKS}
    if not enough:
        return None
    averaged = {name: each for name, each in enough.items() if len(each.table.datasets) > 1}
    figures = [averages_figure(averaged)] if averaged else []
    figures += [_transfer(material, name, each) for name, each in enough.items()]
    return Section(
        id="imagenet",
        nav="ImageNet",
        title=_title(next(iter(enough.values()))),
        lead="Each network's transfer accuracy against its ImageNet accuracy, both in log odds.",
        figures=figures,
    )


def _title(analysis: Analysis) -> str:
    r = analysis.correlation
    over = f"r\u00a0=\u00a0{r.pearson_r:.2f} over {r.num_models} networks"
    if r.p_value > SIGNIFICANCE:
        return f"ImageNet accuracy does not tell which network transfers best ({over})"
    return f"Networks that are better on ImageNet transfer {'better' if r.pearson_r > 0 else 'worse'} ({over})"


def _transfer(material: Material, setting: str, analysis: Analysis) -> ReportFigure:
    panel = material.found.panels.get(setting)  # a published table has none: nor tests on single datasets
    datasets = dict(zip(panel.datasets, panel.dataset_labels, strict=True)) if panel else {}
    ties: Ties = {
        (row.network, datasets[row.dataset, row.images]): row.ties_with_best
        for row in material.found.main_rows
        if row.setting == setting and (row.dataset, row.images) in datasets
    }
    r = analysis.correlation
    title = f"{setting_name(setting)}: r = {r.pearson_r:.2f} between ImageNet and transfer accuracy"
    return transfer_figure(title, analysis, ties, f"figure2_{slug(setting)}")
