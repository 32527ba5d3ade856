"""Readouts: accuracy by depth, and which readouts of a network tie with its best on a dataset."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from penultimate.engine.analysis.curves.depth import ReadoutCurve
from penultimate.engine.report.figures.depth import depth_figure
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.names import setting_name, standing_title
from penultimate.engine.report.sections.section import Material, Section, render
from penultimate.engine.report.sentences import readout_sentences


def readouts(material: Material) -> Section | None:
    """Return the section; None where no network has several readouts on one dataset."""
    curves = material.found.readout_curves
    if not curves:
        return None
    return Section(
        id="readouts",
        nav="Readouts",
        title=_title(curves),
        lead="The readouts of a network, classified alike and compared on the same test images. What is best here was "
        "found by test scores: probe --choose-readout chooses one on val, and scores test with that one alone.",
        figures=[_figure(list(mine)) for _, mine in groupby(curves, key=lambda curve: curve.method)],
        html=render("readouts.html.j2", sentences=readout_sentences(material.found)),
    )


def _figure(curves: Sequence[ReadoutCurve]) -> ReportFigure:
    method = curves[0].method
    name = "readouts" if method == "probe" else f"readouts_{method}"
    return depth_figure(f"{_title(curves)} ({setting_name(method).lower()})", curves, name)


def _title(curves: Sequence[ReadoutCurve]) -> str:
    """Say which readout is best, or of several curves which is best or ties with the best most often."""
    leading = Counter(score.readout for curve in curves for score in curve.scores if score.ties_with_best)
    most = max(leading, key=lambda readout: (leading[readout], readout))
    if len(curves) == 1:
        (curve,) = curves
        ties = [score.readout for score in curve.scores if score.ties_with_best and not score.is_best]
        where = f"among the readouts of {curve.label} on {curve.dataset}"
        return standing_title(curve.best.readout, ties, num_others=len(curve.scores) - 1, where=where)
    return f"{most} is the best readout, or ties with it, in {leading[most]} of {len(curves)} comparisons"
