"""Make of the analysis of a published table the findings that a report shows, though there are no trials behind it."""

from typing import Any

from penultimate.engine.analysis.analysis import Analysis
from penultimate.engine.analysis.findings import Findings
from penultimate.engine.analysis.scoreboard import Contender, Scoreboard
from penultimate.store.key import PENULTIMATE


def table_findings(name: str, analysis: Analysis) -> Findings:
    """Return the findings of one table called ``name``: its models are the contenders, over its datasets."""
    contenders = [_contender(name, analysis, each) for each in analysis.as_json()["models"]]
    best_first = sorted(contenders, key=lambda each: -each.adjusted_mean)
    return Findings(
        board=Scoreboard(rows=(), panels=(), contenders=tuple(best_first), notes=()),
        analyses={name: analysis},
        panels={},
        setting_pairs=(),
        budget_curves=(),
        reached=(),
        speeds=(),
        speedup=None,
        readout_curves=(),
        size_curves=(),
        size_crossings=(),
        notes=(f"{name}: accuracies are {analysis.table.unit}", *analysis.table.notes),
    )


def _contender(name: str, analysis: Analysis, model: dict[str, Any]) -> Contender:
    return Contender(
        backbone=model["model"],
        readout=PENULTIMATE,  # goes without saying: a table says no other
        variant="",
        method=name,
        datasets=analysis.table.datasets,
        imagenet_top1=model["imagenet"],
        mean_log_odds=model["mean_log_odds"],
        adjusted_mean=model["adjusted_mean"],
        standard_error=model["standard_error"],
        correction=analysis.adjusted.correction,
        is_best=model["is_best"],
        ties_with_best=model["ties_with_best"],
        p_value=model["p_value"],
        p_value_holm=model["p_value_holm"],
        test=model["test"],
    )
