"""The first screen: who is best, and how sure that is, as forest plots and two or three sentences."""

from collections import defaultdict

from penultimate.engine.analysis.curves.data_size import SizeCurve
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.sections.forests import averages, of_curves, on_dataset
from penultimate.engine.report.sections.section import Material, Section, render
from penultimate.engine.report.sentences import by_method, headline, more


def answer(material: Material) -> Section:
    """Return the first section; its findings that say little are folded."""
    found = material.found
    return Section(
        id="answer",
        nav="Answer",
        title="",
        figures=answers(material),
        beside=render("answer.html.j2", headline=headline(found), more=more(found)),
    )


def answers(material: Material) -> list[ReportFigure]:
    """Return a forest plot for each method: over its datasets, on its only one, or from the few images it was given."""
    found = material.found
    figures = []
    averaged = set()
    order = by_method(found.contenders)
    for method, contenders in order.items():
        if len(contenders[0].datasets) > 1 and len(contenders) > 1:
            figures.append(averages(contenders))
            averaged.add(method)
    whole = found.main_rows
    for dataset, rows in material.by_dataset([row for row in whole if row.method not in averaged]).items():
        figures += on_dataset(dataset, sorted(rows, key=lambda row: [*order, row.method].index(row.method)))
    shown = {(row.images, row.method) for row in whole}
    few: defaultdict[tuple[str, str, str], list[SizeCurve]] = defaultdict(list)
    for curve in found.size_curves:
        if (curve.images, curve.method) not in shown:
            few[curve.images, curve.method, curve.metric].append(curve)
    return figures + [of_curves(curves) for curves in few.values()]
