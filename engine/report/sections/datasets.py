"""Accuracy by dataset: a forest plot for each, methods and settings compared, and the whole scoreboard."""

from collections import Counter
from collections.abc import Iterator, Sequence

from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.report.figures.methods import against_figure, method_pairs, methods_figure
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.settings import settings_figure
from penultimate.engine.report.sections.answer import answers
from penultimate.engine.report.sections.forests import on_dataset
from penultimate.engine.report.sections.scoreboard import scoreboard_html
from penultimate.engine.report.sections.section import Material, Section

_SETTING_FIGURES = {"probe": "figure3", "finetune": "figure5"}
_PAIRS = (("scratch", "finetune"), ("probe", "finetune"), ("scratch", "probe"), ("knn", "probe"))


def datasets(material: Material) -> Section | None:
    """Return the section; None for a published table, which has no trials."""
    rows = material.found.board.rows
    if not rows:
        return None
    whole = material.found.main_rows
    shown = {figure.name for figure in answers(material)}
    forests = [figure for name, mine in material.by_dataset(whole).items() for figure in on_dataset(name, mine)]
    figures = [figure for figure in forests if figure.name not in shown]
    figures += _settings(material)
    if len({row.method for row in whole}) > 1:
        figures.append(methods_figure(whole))
    figures += [against_figure(whole, first, second) for first, second in _PAIRS if method_pairs(whole, first, second)]
    return Section(
        id="scoreboard",
        nav="Datasets",
        title=_title(whole or rows),
        lead="Every trial, best first within its dataset and method. Columns sort.",
        figures=figures,
        html=scoreboard_html(material),
    )


def _title(rows: Sequence[ScoreRow]) -> str:
    best: dict[str, float] = {}
    for row in rows:
        best[row.dataset] = max(best.get(row.dataset, 0.0), row.value)
    hardest, easiest = min(best, key=lambda name: best[name]), max(best, key=lambda name: best[name])
    if len(best) == 1:
        return f"The best on {hardest} is {100 * best[hardest]:.1f} %"
    return f"The best on {hardest} is {100 * best[hardest]:.1f} %, on {easiest} {100 * best[easiest]:.1f} %"


def _settings(material: Material) -> Iterator[ReportFigure]:
    contenders = material.found.contenders
    for method in sorted({each.method for each in contenders}):
        mine = [each for each in contenders if each.method == method]
        times = Counter(each.backbone for each in mine)
        several = {backbone for backbone, variants in times.items() if variants > 1}
        if several:
            name = _SETTING_FIGURES.get(method, f"settings_{method}")
            yield settings_figure([each for each in mine if each.backbone in several], name)
