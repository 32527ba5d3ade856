"""Compare the readouts of one backbone on one dataset: accuracy by depth, and which readouts tie with its best.

All of them score the same test samples, so that they are compared in pairs (``TrialPredictions.test_against``). The
best is the best on test: it says what there was to find, not what to expect of it, for which one is chosen on val.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from penultimate.engine.analysis.predictions import TrialPredictions
from penultimate.engine.analysis.statistics.compare import holm, ties
from penultimate.engine.analysis.variant import variants
from penultimate.store.trials.trial import CHOSEN, OF_FEATURES, Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadoutScore:
    """One readout of a ReadoutCurve."""

    trial: str
    """Id of its trial."""

    readout: str
    layer: int | None
    """Index of its block or stage, from 0; None for other readouts."""

    value: float
    """Score on test, a fraction."""

    interval: tuple[float, float] | None
    """95 % interval of ``value`` over test samples."""

    is_best: bool
    ties_with_best: bool | None
    """True where it is not significantly different from the best (p > 0.05), and for the best itself; None where the
    samples cannot be paired."""

    p_value: float | None
    p_value_holm: float | None
    """P value corrected after Holm over the readouts of this curve."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadoutCurve:
    """The readouts of one backbone on one dataset, classified alike."""

    dataset: str
    images: str
    method: str
    """``probe`` or ``knn``."""

    backbone: str
    variant: str
    """Settings, other than the readout, that distinguish it from other curves of the same backbone and dataset."""

    metric: str
    n_test: int
    scores: tuple[ReadoutScore, ...]
    """Layers in the order of their depth, then all other readouts by name."""

    @property
    def label(self) -> str:
        """Return ``backbone`` or ``backbone (variant)``."""
        return f"{self.backbone} ({self.variant})" if self.variant else self.backbone

    @property
    def layers(self) -> tuple[ReadoutScore, ...]:
        """Return the scores of blocks or stages, in the order of their depth."""
        return tuple(score for score in self.scores if score.layer is not None)

    @property
    def best(self) -> ReadoutScore:
        """Return the best readout on test."""
        return next(score for score in self.scores if score.is_best)


def layer_of(readout: str) -> int | None:
    """Return the index of the layer of a readout such as ``stage:3``; None for other readouts.

    >>> layer_of("stage:3"), layer_of("cls")
    (3, None)
    """
    index = readout.partition(":")[2]
    return int(index) if index.isdecimal() else None


def readout_curves(trials: Iterable[Trial], *, seed: int = 0) -> list[ReadoutCurve]:
    """Return a curve for each method, backbone and dataset that has several readouts from all training images.

    ``seed`` is that of the permutation tests and of resampled intervals. Trials whose readout was chosen are no points.
    """
    probes = [
        trial
        for trial in trials
        if trial.method in OF_FEATURES and trial.settings.get("shots") is None and trial.readout != CHOSEN
    ]
    alike = [replace(trial, features={**trial.features, "readout": "any"}) for trial in probes]
    groups: defaultdict[tuple[str, ...], dict[str, Trial]] = defaultdict(dict)
    for trial, variant in zip(probes, variants(alike), strict=True):
        key = (trial.method, trial.dataset, trial.features["images"], trial.backbone, variant.label, trial.metric)
        groups[key][trial.readout] = trial
    return [_curve(key, [*groups[key].values()], seed) for key in sorted(groups) if len(groups[key]) > 1]


def _curve(key: Sequence[str], trials: Sequence[Trial], seed: int) -> ReadoutCurve:
    method, dataset, images, backbone, variant, metric = key
    ranked = sorted(trials, key=lambda trial: (-trial.value, trial.readout))
    predictions = [TrialPredictions.of(trial) for trial in ranked]
    tests = [None, *(each.test_against(predictions[0], seed=seed) for each in predictions[1:])]
    corrected = holm([test.p_value if test else np.nan for test in tests])
    scores = []
    for trial, own, test, p_holm in zip(ranked, predictions, tests, corrected, strict=True):
        interval = own.interval(trial.value, seed=seed)
        known = test is not None and not np.isnan(test.p_value)
        scores.append(
            ReadoutScore(
                trial=trial.id,
                readout=trial.readout,
                layer=layer_of(trial.readout),
                value=trial.value,
                interval=(interval.low, interval.high) if interval and np.isfinite(interval.low) else None,
                is_best=trial is ranked[0],
                ties_with_best=True if trial is ranked[0] else ties(test),
                p_value=test.p_value if test is not None and known else None,
                p_value_holm=p_holm if known else None,
            )
        )
    scores.sort(key=lambda score: (score.layer is None, score.layer or 0, score.readout))
    return ReadoutCurve(
        dataset=dataset,
        images=images,
        method=method,
        backbone=backbone,
        variant=variant,
        metric=metric,
        n_test=ranked[0].num_test,
        scores=tuple(scores),
    )
