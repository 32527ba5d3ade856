"""Scoreboard: trials in; rows with error bars, ties with the best and what did not converge out.

A row is a trial, so that trials of one backbone on one dataset stay apart. Trials are compared with each other on the
same images, by the same method and metric: a panel of the paper's figure 2. A contender is a backbone with its
variant by one method; over the datasets that all contenders of a method share it gets an adjusted mean with Morey's
standard error (``adjusted``) and a paired t-test against the best. A row can be recomputed from its trial alone,
except for what compares it with others.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from penultimate.engine.analysis.adjusted import Correction, adjusted_accuracies
from penultimate.engine.analysis.compare import Test, holm, paired_t_test
from penultimate.engine.analysis.log_odds import log_odds
from penultimate.engine.analysis.predictions import Predictions
from penultimate.engine.analysis.variant import variants
from penultimate.store.trial import Trial

SIGNIFICANCE = 0.05
"""A contender ties with the best unless p is at or below this (Kornblith et al. 2019, figure 2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """One trial on the scoreboard. Accuracies, errors and intervals are fractions; None is "not known"."""

    trial: str
    """The trial's id."""

    dataset: str
    images: str
    """Digest of the images: rows are compared only where it is the same."""

    backbone: str
    variant: str
    """What sets this trial apart from others of the same backbone, method and images; empty where nothing does."""

    method: str
    seed: int
    metric: str
    value: float
    standard_error: float | None
    """Over test samples."""

    interval: tuple[float, float] | None
    """95 %, over test samples."""

    interval_method: str | None
    log_odds: float
    log_odds_rule: str
    adjusted_log_odds: float | None = None
    """Less the mean of the rows compared with; None where there is no other."""

    l2: float | None
    """Chosen on val; None for a method without it."""

    chosen: Mapping[str, float]
    n_test: int
    converged: bool
    imagenet_top1: float | None
    is_best: bool = True
    ties_with_best: bool = True
    """Not significantly different from the best: p > 0.05, uncorrected as in the paper; True for the best."""

    p_value: float | None = None
    """Against the best, two-sided; None for the best itself or where the samples cannot be paired."""

    p_value_holm: float | None = None
    """``p_value`` by Holm over all rows compared with the best."""

    test: str | None = None
    notes: tuple[str, ...]
    created: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One backbone (and variant) by one method over the datasets that all of the method share."""

    backbone: str
    variant: str
    method: str
    datasets: tuple[str, ...]
    imagenet_top1: float | None
    mean_log_odds: float
    adjusted_mean: float
    standard_error: float | None
    """Morey's; None with a single dataset or contender."""

    correction: Correction
    is_best: bool
    ties_with_best: bool
    p_value: float | None
    p_value_holm: float | None
    test: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoreboard:
    """Rows best first within dataset and method, and contenders best first within a method."""

    rows: tuple[ScoreRow, ...]
    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]
    """What a reader must know: datasets left out of the contenders' means, and for whom they are missing."""

    def row_dicts(self) -> list[dict[str, Any]]:
        """The rows as JSON can hold them."""
        return [asdict(row) for row in self.rows]

    def contender_dicts(self) -> list[dict[str, Any]]:
        """The contenders as JSON can hold them."""
        return [asdict(contender) for contender in self.contenders]


def scoreboard(
    trials: Iterable[Trial],
    *,
    imagenet: Mapping[str, float] | None = None,
    correction: Correction = "sqrt",
    seed: int = 0,
) -> Scoreboard:
    """Score ``trials`` against each other.

    ``imagenet`` gives ImageNet top-1 as a fraction by backbone name; ``seed`` is the permutation tests'.
    """
    known = list(trials)
    names = variants(known)
    top1 = imagenet or {}
    panels: defaultdict[tuple[str, ...], list[tuple[ScoreRow, Predictions]]] = defaultdict(list)
    for trial, variant in zip(known, names, strict=True):
        predictions = Predictions.of(trial)
        row = _row(trial, variant, predictions, top1.get(trial.backbone))
        panels[row.dataset, row.images, row.method, row.metric].append((row, predictions))
    rows = [row for key in sorted(panels) for row in _compared(panels[key], seed)]
    contenders: list[Contender] = []
    notes: list[str] = []
    for method in sorted({row.method for row in rows}):
        of_method, left_out = _contenders([row for row in rows if row.method == method], correction)
        contenders += of_method
        notes += left_out
    return Scoreboard(rows=tuple(rows), contenders=tuple(contenders), notes=tuple(notes))


def _row(trial: Trial, variant: str, predictions: Predictions, imagenet_top1: float | None) -> ScoreRow:
    interval = predictions.interval()
    logit = log_odds(trial.value, num_test=trial.num_test)
    return ScoreRow(
        trial=trial.id,
        dataset=trial.dataset,
        images=trial.features["images"],
        backbone=trial.backbone,
        variant=variant,
        method=trial.method,
        seed=trial.seed,
        metric=trial.metric,
        value=trial.value,
        standard_error=interval.standard_error if interval else None,
        interval=(interval.low, interval.high) if interval and np.isfinite(interval.low) else None,
        interval_method=interval.method if interval else None,
        log_odds=float(logit.values),
        log_odds_rule=logit.rule,
        l2=trial.chosen.get("l2"),
        chosen=dict(trial.chosen),
        n_test=trial.num_test,
        converged=trial.converged,
        imagenet_top1=imagenet_top1,
        notes=tuple(trial.notes),
        created=trial.created,
    )


def _compared(panel: Sequence[tuple[ScoreRow, Predictions]], seed: int) -> list[ScoreRow]:
    """The rows of a panel, best first, with what compares them: adjusted log odds, and the test against the best."""
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
    """The fields that say how something compares with the best; without a test it is not called a tie."""
    p_value = None if test is None or np.isnan(test.p_value) else test.p_value
    return {
        "is_best": is_best,
        "ties_with_best": is_best or (p_value is not None and p_value > SIGNIFICANCE),
        "p_value": p_value,
        "p_value_holm": None if p_value is None else p_holm,
        "test": None if test is None else test.method,
    }


def _contenders(rows: Sequence[ScoreRow], correction: Correction) -> tuple[list[Contender], list[str]]:
    """Contenders of one method over the datasets that all have, best first, and what was left out."""
    cells: defaultdict[tuple[str, str], defaultdict[tuple[str, str], list[ScoreRow]]]
    cells = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.backbone, row.variant][row.dataset, row.images].append(row)
    everywhere = {dataset for by_dataset in cells.values() for dataset in by_dataset}
    shared = sorted(dataset for dataset in everywhere if all(dataset in by_dataset for by_dataset in cells.values()))
    notes = [_left_out(dataset, rows[0].method, cells) for dataset in sorted(everywhere - set(shared))]
    if not shared:
        return [], notes
    keys = sorted(cells)
    logits_MD = np.array([[np.mean([r.log_odds for r in cells[key][d]]) for d in shared] for key in keys])
    adjusted = adjusted_accuracies(logits_MD, correction=correction)
    best = int(adjusted.mean_M.argmax())
    tests = [None if m == best else paired_t_test(logits_MD[m], logits_MD[best]) for m in range(len(keys))]
    corrected = holm([test.p_value if test else np.nan for test in tests])
    contenders = [
        Contender(
            backbone=backbone,
            variant=variant,
            method=rows[0].method,
            datasets=tuple(name for name, _ in shared),
            imagenet_top1=next(iter(cells[backbone, variant].values()))[0].imagenet_top1,
            mean_log_odds=float(logits_MD[m].mean()),
            adjusted_mean=float(adjusted.mean_M[m]),
            standard_error=None if np.isnan(adjusted.standard_error_M[m]) else float(adjusted.standard_error_M[m]),
            correction=correction,
            **_against_best(m == best, tests[m], corrected[m]),
        )
        for m, (backbone, variant) in enumerate(keys)
    ]
    return sorted(contenders, key=lambda c: -c.adjusted_mean), notes


def _left_out(
    dataset: tuple[str, str], method: str, cells: Mapping[tuple[str, str], Mapping[tuple[str, str], Any]]
) -> str:
    lacking = sorted(" ".join(filter(None, key)) for key, by_dataset in cells.items() if dataset not in by_dataset)
    return f"{method}: {dataset[0]} ({dataset[1][:8]}) is left out of the means: no trial of {', '.join(lacking)}"
