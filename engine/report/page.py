"""Write findings, figures and trials as one HTML page that needs no network."""

from collections.abc import Sequence
from pathlib import Path

from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.sections.answer import answer
from penultimate.engine.report.sections.background import doubts, spaces, tests, trials
from penultimate.engine.report.sections.calibrations import calibrations
from penultimate.engine.report.sections.classes import classes
from penultimate.engine.report.sections.curves import curves
from penultimate.engine.report.sections.datasets import datasets
from penultimate.engine.report.sections.imagenet import imagenet
from penultimate.engine.report.sections.paths import paths
from penultimate.engine.report.sections.readouts import readouts
from penultimate.engine.report.sections.section import MakeSection, Material, Section, render
from penultimate.engine.runtime.whole_file import write_whole
from penultimate.engine.web.render import script_safe
from penultimate.store.provenance import library_versions

SECTIONS: tuple[MakeSection, ...] = (
    answer,
    imagenet,
    paths,
    datasets,
    readouts,
    curves,
    classes,
    calibrations,
    spaces,
    tests,
    doubts,
    trials,
)
"""The sections of the page in their order, the answer first."""


def make_sections(material: Material) -> list[Section]:
    """Return the sections that the material has something for."""
    return [section for make in SECTIONS if (section := make(material)) is not None]


def figures(sections: Sequence[Section]) -> list[ReportFigure]:
    """Return the figures of all sections, in the page's order."""
    return [figure for section in sections for figure in section.figures]


def write_page(path: Path, material: Material, sections: Sequence[Section], *, title: str = "Transfer report") -> None:
    """Write the report to ``path``."""
    write_whole(path, page(material, sections, title=title))


def page(material: Material, sections: Sequence[Section], *, title: str = "Transfer report") -> str:
    """Return the report as HTML."""
    return str(
        render(
            "page.html.j2",
            title=title,
            subtitle=_subtitle(material),
            sections=sections,
            numbers=script_safe(material.found.as_json()),
        )
    )


def _subtitle(material: Material) -> str:
    names = {(row.dataset, row.images) for row in material.found.board.rows}
    known = f"{len(material.trials):,} trials, {len(names)} dataset{'s' * (len(names) != 1)}; " if names else ""
    version = library_versions().get("penultimate", "not installed")
    return (
        f"{known}penultimate {version}. Accuracies are per cent of the test images; intervals are 95 %; p values are "
        "two-sided."
    )
