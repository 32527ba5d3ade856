"""Regularisation paths: how val score, train loss and the weights change with the strength, and which val chose."""

from penultimate.engine.report.figures.path import path_figure, path_rows
from penultimate.engine.report.names import name_of, slug
from penultimate.engine.report.sections.section import Material, Section

MOST_LINES = 7
"""Number of backbones a figure shows, the best; as many as have a colour of their own."""


def paths(material: Material) -> Section | None:
    """Return the section; None where no probe has a path of several strengths."""
    probes = [row for row in material.rows if row.method == "probe" and len(path_rows(material.by_id[row.trial])) > 1]
    if not probes:
        return None
    figures, chosen = [], []
    for dataset, rows in material.by_dataset(probes).items():
        shown = rows[:MOST_LINES]
        strengths = sorted(row.l2 for row in shown if row.l2 is not None)
        chosen += strengths
        trials = [material.by_id[row.trial] for row in shown]
        title = f"On {dataset} val prefers l2 = {_range(strengths)}"
        figures.append(path_figure(f"path_{slug(dataset)}", title, trials, [name_of(row) for row in shown]))
    return Section(
        id="paths",
        nav="Paths",
        title=f"The strengths that val chooses: l2 = {_range(sorted(chosen))}",
        lead="A probe is fitted at every strength of the path. Too strong, and it cannot tell classes apart; too "
        "weak, and "
        "weights grow without val gaining.",
        figures=figures,
    )


def _range(strengths: list[float]) -> str:
    low, high = (f"{float(f'{strength:.2g}'):g}" for strength in (strengths[0], strengths[-1]))
    return low if low == high else f"{low} to {high}"
