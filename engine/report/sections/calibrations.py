"""Calibration: whether probabilities come true, before and after the temperature fitted on val."""

from statistics import median

from penultimate.engine.analysis.calibration import Calibration
from penultimate.engine.report.figures.reliability import reliability_figure
from penultimate.engine.report.names import name_of, setting_name, slug
from penultimate.engine.report.sections.section import Material, Section, render

MOST_LINES = 4
"""Number of trials that a figure shows, the best; the table has all."""


def calibrations(material: Material) -> Section | None:
    """Return the section; None where no trial kept probabilities."""
    scored = [row for row in material.rows if "log_loss" in row.scores]
    if not scored:
        return None
    figures = []
    for dataset, rows in material.by_dataset(scored).items():
        found = [(row, Calibration.of(material.by_id[row.trial])) for row in rows]
        shown = [(row, each) for row, each in found if each is not None][:MOST_LINES]
        if shown:
            lines = [f"{name_of(row)}, {setting_name(row.method).lower()}" for row, _ in shown]
            title = f"On {dataset} probabilities of {name_of(shown[0][0])} are {_off(shown[0][1])}"
            figures.append(
                reliability_figure(f"reliability_{slug(dataset)}", title, lines, [each for _, each in shown])
            )
    return Section(
        id="calibration",
        nav="Calibration",
        title=_title([(row.scores["ece"], row.calibrated.get("ece")) for row in scored]),
        lead="Log loss, Brier score and expected calibration error (ECE) of test: lower is better. After: at the "
        "temperature that "
        "fits val best, which the head keeps and predict uses.",
        figures=figures,
        html=render("calibration.html.j2", rows=scored, name_of=name_of),
    )


def _off(found: Calibration) -> str:
    before = f"{100 * found.before.error:.1f} points off"
    return before if found.after is None else f"{before}, {100 * found.after.error:.1f} once calibrated"


def _title(errors: list[tuple[float, float | None]]) -> str:
    middle = "In the median trial probabilities" if len(errors) > 1 else "Probabilities"
    before = f"{middle} are {100 * median(error for error, _ in errors):.1f} percentage points off"
    after = [error for _, error in errors if error is not None]
    return f"{before}, {100 * median(after):.1f} with a temperature" if after else before
