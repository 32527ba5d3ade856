"""Classes: which are hard, and what they are mistaken for, by the best trial on each dataset."""

from base64 import b64encode
from dataclasses import dataclass

from penultimate.engine.analysis.class_scores import ClassScores
from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.report.figures.classes import LARGEST_MATRIX, class_bars_figure, confusion_figure
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.names import name_of, setting_name, slug
from penultimate.engine.report.sections.section import Material, Section, render

MOST_CONFUSIONS = 10
"""Number of confusions that are said in words, on each dataset."""

MOST_PICTURED, MOST_DATASETS = 6, 12
"""Number of confusions with photographs, and of datasets: at most 288 thumbnails of some 2 kB."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassesOf:
    """The classes of one dataset, by the best trial on it."""

    dataset: str
    row: ScoreRow
    scores: ClassScores

    @property
    def name(self) -> str:
        """Return the trial's name for people."""
        return f"{name_of(self.row)}, {setting_name(self.row.method).lower()}"


def classes(material: Material) -> Section | None:
    """Return the section; None where every trial has several labels an image."""
    found = _found(material)
    if not found:
        return None
    hardest = found[0].scores.classes[0]
    return Section(
        id="classes",
        nav="Classes",
        title=f"{hardest.name} is the hardest class of {found[0].dataset} ({100 * hardest.accuracy:.0f} % right)",
        lead="Accuracy within each class of the test images, and what is taken for what, by the best trial on "
        "each dataset.",
        figures=[figure for each in found for figure in _figures(each)],
        beside=render("classes.html.j2", found=found, most=MOST_CONFUSIONS, pictures=_pictures(material)),
    )


def pictured(material: Material) -> dict[str, list[str]]:
    """Return the ids of the test images that the section shows where it has their thumbnails, by digest of images."""
    return {
        each.row.images: [id_ for one in each.scores.confusions[:MOST_PICTURED] for id_ in one.ids]
        for each in _found(material)[:MOST_DATASETS]
    }


def _found(material: Material) -> list[ClassesOf]:
    return [
        ClassesOf(dataset=dataset, row=rows[0], scores=scores)
        for dataset, rows in material.by_dataset(material.rows).items()
        for scores in (ClassScores.of(material.by_id[rows[0].trial]),)
        if scores is not None
    ]


def _pictures(material: Material) -> dict[tuple[str, str], str]:
    """Return each thumbnail as an address that holds it."""
    return {
        key: f"data:image/webp;base64,{b64encode(content).decode()}" for key, content in material.photographs.items()
    }


def _figures(each: ClassesOf) -> list[ReportFigure]:
    hardest = each.scores.classes[0]
    title = f"{each.dataset}: {hardest.num_right} of {hardest.num_test} {hardest.name} are right"
    figures = [class_bars_figure(f"classes_{slug(each.dataset)}", f"{title} ({each.name})", each.scores)]
    if len(each.scores.names) <= LARGEST_MATRIX:
        top = each.scores.confusions[:1]
        said = "no image is taken for another class"
        for one in top:
            said = f"{one.count} of {one.num_test} {one.truth} are taken for {one.predicted}"
        figures.append(confusion_figure(f"confusions_{slug(each.dataset)}", f"{each.dataset}: {said}", each.scores))
    return figures
