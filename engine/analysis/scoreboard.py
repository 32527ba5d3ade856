"""Score trials against each other: error bars, ties with the best, and trials that did not converge.

A row is a trial, so that trials of one backbone on one dataset stay apart. Trials are compared with each other on the
same images, by the same method and metric and from as many shots: a panel of the paper's figure 2. A contender is a
backbone with its variant by one method; over the datasets that all contenders of a method share it gets an adjusted
mean with Morey's standard error (``adjusted``) and a paired t-test against the best. A row can be recomputed from its
trial alone, except for what compares it with others.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from penultimate.engine.analysis.panel import Panel, panels
from penultimate.engine.analysis.predictions import TrialPredictions
from penultimate.engine.analysis.score_row import ScoreRow, score_row
from penultimate.engine.analysis.statistics.adjusted import Correction, adjusted_accuracies
from penultimate.engine.analysis.statistics.compare import Test, holm, paired_t_test, ties
from penultimate.engine.analysis.variant import variants
from penultimate.store.trials.trial import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One backbone (and variant) by one method over the datasets that all of the method share."""

    backbone: str
    readout: str
    variant: str
    method: str
    datasets: tuple[str, ...]
    imagenet_top1: float | None
    mean_log_odds: float
    adjusted_mean: float
    standard_error: float | None
    """Morey's standard error of ``adjusted_mean``; None with a single dataset or contender."""

    correction: Correction
    is_best: bool
    ties_with_best: bool | None
    """True where it is not significantly different from the best; None where no test is possible, as with a single
    dataset."""

    p_value: float | None
    p_value_holm: float | None
    test: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoreboard:
    """Rows best first within dataset and method, and contenders best first within a method."""

    rows: tuple[ScoreRow, ...]
    panels: tuple[Panel, ...]
    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]
    """Sentences naming the datasets left out of the contenders' means, and the contenders that lack them."""

    def row_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as plain values that JSON can hold."""
        return [asdict(row) for row in self.rows]

    def contender_dicts(self) -> list[dict[str, Any]]:
        """Return the contenders as plain values that JSON can hold."""
        return [asdict(contender) for contender in self.contenders]


def scoreboard(
    trials: Iterable[Trial],
    *,
    imagenet: Mapping[str, float] | None = None,
    correction: Correction = "sqrt",
    seed: int = 0,
) -> Scoreboard:
    """Score ``trials`` against each other.

    ``imagenet`` gives ImageNet top-1 as a fraction, by digest of the weights or by backbone name; ``seed`` is that of
    the permutation tests and of resampled intervals.
    """
    known = list(trials)
    names = variants(known)
    top1 = imagenet or {}
    comparable: defaultdict[tuple[str | int, ...], list[tuple[ScoreRow, TrialPredictions]]] = defaultdict(list)
    for trial, variant in zip(known, names, strict=True):
        predictions = TrialPredictions.of(trial)
        by_name = top1.get(trial.backbone)
        row = score_row(trial, variant, predictions, top1.get(trial.features.get("weights", ""), by_name), seed=seed)
        comparable[row.dataset, row.images, row.method, row.metric, row.shots or 0].append((row, predictions))
    rows = tuple(row for key in sorted(comparable) for row in _compared(comparable[key], seed))
    by_method = panels(rows)
    return Scoreboard(
        rows=rows,
        panels=tuple(by_method),
        contenders=tuple(contender for panel in by_method for contender in _contenders(panel, correction)),
        notes=tuple(note for panel in by_method for note in panel.left_out),
    )


def _compared(panel: Sequence[tuple[ScoreRow, TrialPredictions]], seed: int) -> list[ScoreRow]:
    """Sort the rows of a panel, best first, and add their adjusted log odds and the test against the best."""
    panel = sorted(panel, key=lambda entry: (-entry[0].value, entry[0].backbone, entry[0].variant, entry[0].created))
    if len(panel) == 1:
        return [panel[0][0]]
    best, best_predictions = panel[0]
    mean = float(np.mean([row.log_odds for row, _ in panel]))
    tests = [None if row is best else them.test_against(best_predictions, seed=seed) for row, them in panel]
    corrected = holm([test.p_value if test else np.nan for test in tests])
    return [
        replace(row, adjusted_log_odds=row.log_odds - mean, **_against_best(row is best, test, p_holm))
        for (row, _), test, p_holm in zip(panel, tests, corrected, strict=True)
    ]


def _against_best(is_best: bool, test: Test | None, p_holm: float) -> dict[str, Any]:
    """Return the fields that compare a row or contender with the best."""
    p_value = None if test is None or np.isnan(test.p_value) else test.p_value
    return {
        "is_best": is_best,
        "ties_with_best": True if is_best else ties(test),
        "p_value": p_value,
        "p_value_holm": None if p_value is None else p_holm,
        "test": None if test is None else test.method,
    }


def _contenders(panel: Panel, correction: Correction) -> list[Contender]:
    """Return one method's contenders, best first, over the datasets that all have; none where they share none."""
    if not panel.datasets:
        return []
    logits_MD = panel.log_odds.values
    adjusted = adjusted_accuracies(logits_MD, correction=correction)
    best = int(adjusted.mean_M.argmax())
    tests = [None if m == best else paired_t_test(logits, logits_MD[best]) for m, logits in enumerate(logits_MD)]
    corrected = holm([test.p_value if test else np.nan for test in tests])
    contenders = [
        Contender(
            backbone=backbone,
            readout=panel.readouts[m],
            variant=variant,
            method=panel.name,
            datasets=panel.dataset_labels,
            imagenet_top1=None if np.isnan(panel.imagenet_M[m]) else float(panel.imagenet_M[m]),
            mean_log_odds=float(logits_MD[m].mean()),
            adjusted_mean=float(adjusted.mean_M[m]),
            standard_error=None if np.isnan(adjusted.standard_error_M[m]) else float(adjusted.standard_error_M[m]),
            correction=correction,
            **_against_best(m == best, tests[m], corrected[m]),
        )
        for m, (backbone, variant) in enumerate(panel.contenders)
    ]
    return sorted(contenders, key=lambda contender: -contender.adjusted_mean)
