"""The page's last sections: feature spaces, the tests behind each claim, doubts, and every trial's settings."""

from penultimate.engine.report.names import name_of
from penultimate.engine.report.sections.section import Material, Section, render


def spaces(material: Material) -> Section | None:
    """Return the section on feature spaces; None where none was drawn."""
    if not material.spaces:
        return None
    return Section(id="spaces", nav="Spaces", title=material.spaces[0].title, figures=material.spaces)


def tests(material: Material) -> Section | None:
    """Return the tables of tests; None where nothing was compared."""
    found = material.found
    contenders = [each for each in found.board.contenders if each.standard_error is not None]
    if not (contenders or found.analyses or found.setting_pairs or found.speeds or found.size_crossings):
        return None
    html = render("tests.html.j2", found=found, contenders=contenders)
    return Section(id="tests", nav="Tests", title="Tests behind the claims", html=html)


def doubts(material: Material) -> Section | None:
    """Return what did not converge and what was left out; None where there is neither."""
    failed = [row for row in material.found.board.rows if not row.converged]
    if not (failed or material.found.notes):
        return None
    html = render("doubts.html.j2", name_of=name_of, failed=failed, notes=material.found.notes)
    return Section(id="doubts", nav="Doubts", title="What did not converge, and what was left out", html=html)


def trials(material: Material) -> Section | None:
    """Return settings, versions and hardware of every trial; None for a published table."""
    if not material.trials:
        return None
    html = render("trials.html.j2", trials=material.trials)
    return Section(id="trials", nav="Trials", title="Trials: settings, versions, hardware", html=html)
