"""Turn one trial into a row of the scoreboard."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penultimate.engine.analysis.predictions import TrialPredictions
from penultimate.engine.analysis.statistics.log_odds import log_odds
from penultimate.engine.analysis.variant import Variant
from penultimate.store.trials.trial import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """One trial on the scoreboard. Accuracies, errors and intervals are fractions; None is "not known"."""

    trial: str
    """Id of the trial."""

    dataset: str
    images: str
    """Digest of the images: rows are compared only where it is the same."""

    backbone: str
    readout: str
    """Readout of the features, ``last4 (chosen)`` where it was chosen on val; ``penultimate`` for a trained network."""

    variant: str
    """Settings that distinguish this trial from others of the same backbone, method and images; may be empty."""

    network: str
    """Name of the backbone, with its weights where the name stands for several networks."""

    method: str
    setting: str
    """Method with the settings that were varied. Backbones are compared with each other within one setting."""

    shots: int | None
    """Training images a class (``settings["shots"]``); None where all were used."""

    steps: int | None
    """Step at the end of the history of a trained network; None for a probe."""

    seed: int
    metric: str
    value: float
    standard_error: float | None
    """Standard error of ``value`` over test samples."""

    interval: tuple[float, float] | None
    """95 % confidence interval of ``value`` over test samples."""

    interval_method: str | None
    log_odds: float
    log_odds_rule: str
    adjusted_log_odds: float | None = None
    """Log odds minus the mean of all rows it is compared with; None where there is no other row."""

    l2: float | None
    """L2 strength chosen on val; None for a method without it."""

    chosen: Mapping[str, Any]
    """The settings chosen on val, as ``Trial.chosen`` has them."""

    scores: Mapping[str, float]
    """Every metric and score on test that is known: of trials written before they were kept, those of predictions."""

    calibrated: Mapping[str, float]
    """Log loss, Brier score and calibration error on test at the temperature fitted on val; empty where there is none.
    """

    n_test: int
    converged: bool
    imagenet_top1: float | None
    is_best: bool = True
    ties_with_best: bool | None = True
    """True where it is not significantly different from the best (p > 0.05, uncorrected as in the paper) and for the
    best itself; None where the samples cannot be paired."""

    p_value: float | None = None
    """Two-sided p value against the best; None for the best itself or where the samples cannot be paired."""

    p_value_holm: float | None = None
    """P value corrected after Holm over all rows compared with the best."""

    test: str | None = None
    notes: tuple[str, ...]
    created: str


def score_row(
    trial: Trial, variant: Variant, predictions: TrialPredictions, imagenet_top1: float | None, *, seed: int
) -> ScoreRow:
    """Return the row of ``trial``, not yet compared with others. ``seed`` is that of an interval's resamples."""
    interval = predictions.interval(trial.value, seed=seed)
    logit = log_odds(trial.value, num_test=trial.num_test)
    return ScoreRow(
        trial=trial.id,
        dataset=trial.dataset,
        images=trial.features["images"],
        backbone=trial.backbone,
        readout=trial.readout_text,
        variant=variant.label,
        network=f"{trial.backbone} ({variant.network})" if variant.network else trial.backbone,
        method=trial.method,
        setting=f"{trial.method} ({variant.setting})" if variant.setting else trial.method,
        shots=trial.settings.get("shots"),
        steps=trial.history[-1].get("step") if trial.history else None,
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
        scores=_scores(trial),
        calibrated=dict(trial.metrics.get("test_calibrated", {})),
        n_test=trial.num_test,
        converged=trial.converged,
        imagenet_top1=imagenet_top1,
        notes=tuple(trial.notes),
        created=trial.created,
    )


def _scores(trial: Trial) -> dict[str, float]:
    known = dict(trial.metrics.get("test", {}))
    if "macro_f1" in known or "test_predictions" not in trial.arrays:
        return known
    from sklearn.metrics import balanced_accuracy_score, f1_score  # slow to import, and not every verb scores

    labels, predicted = trial.arrays["test_labels"], trial.arrays["test_predictions"]
    with warnings.catch_warnings():  # of a class that is predicted and does not occur
        warnings.simplefilter("ignore")
        balanced = float(balanced_accuracy_score(labels, predicted))
    return {"mean_per_class": balanced, "macro_f1": float(f1_score(labels, predicted, average="macro"))} | known
