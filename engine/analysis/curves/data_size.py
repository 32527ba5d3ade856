"""Trace a metric against images a class, with standard errors over subsets, and find where two settings cross.

Kornblith et al. 2019, section 4.7 and figure 9: k images a class, three subsets each. Read from trials whose settings
name ``shots`` (images a class); trials of the same shots that differ in their seed are the subsets.
"""

# Shapes: S sizes, from the smallest up.

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.analysis.statistics.log_odds import log_odds
from penultimate.engine.analysis.variant import variants
from penultimate.store.trials.trial import Trial


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SizeCurve:
    """One backbone (and variant) on one dataset by one method, as its training set grows."""

    dataset: str
    images: str
    backbone: str
    variant: str
    method: str
    metric: str
    num_classes: int
    """Number of classes in the test set."""

    shots_S: NDArray[np.int64]
    """Images a class, increasing."""

    mean_S: NDArray[np.float64]
    """Mean of the metric over subsets, a fraction."""

    standard_error_S: NDArray[np.float64]
    """Standard error of ``mean_S``: the subsets' standard deviation / sqrt(n); NaN for a single subset."""

    num_subsets_S: NDArray[np.int64]
    log_odds_S: NDArray[np.float64]
    """Log odds of ``mean_S``."""

    @property
    def label(self) -> str:
        """Return ``method: backbone`` or ``method: backbone (variant)``."""
        return f"{self.method}: {self.backbone}" + (f" ({self.variant})" if self.variant else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossing:
    """A point at which one curve overtakes another, between two sizes that both have."""

    shots: float
    """Images a class at which the curves meet, interpolating log odds linearly in log shots."""

    between: tuple[int, int]
    """The sizes just before and just after the crossing, in images a class."""

    overtaken_by: str
    """The curve that is better from here on: ``first`` or ``second``."""


def size_curves(trials: Iterable[Trial]) -> list[SizeCurve]:
    """Return one curve for each dataset, method, backbone and variant in ``trials``; a single size gives one point."""
    sized = [trial for trial in trials if trial.settings.get("shots") is not None]
    cells: defaultdict[tuple[str, ...], defaultdict[int, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for trial, variant in zip(sized, variants(sized), strict=True):
        key = (trial.dataset, trial.features["images"], trial.method, trial.backbone, variant.label, trial.metric)
        cells[key][int(trial.settings["shots"])].append(trial)
    return [_curve(key, cells[key]) for key in sorted(cells)]


def _curve(key: Sequence[str], by_shots: dict[int, list[Trial]]) -> SizeCurve:
    dataset, images, method, backbone, variant, metric = key
    shots = sorted(by_shots)
    values = [np.array([trial.value for trial in by_shots[k]]) for k in shots]
    mean_S = np.array([v.mean() for v in values])
    num_test = np.array([by_shots[k][0].num_test for k in shots])
    return SizeCurve(
        dataset=dataset,
        images=images,
        backbone=backbone,
        variant=variant,
        method=method,
        metric=metric,
        num_classes=_num_classes(by_shots[shots[0]][0]),
        shots_S=np.array(shots, dtype=np.int64),
        mean_S=mean_S,
        standard_error_S=np.array([v.std(ddof=1) / sqrt(len(v)) if len(v) > 1 else nan for v in values]),
        num_subsets_S=np.array([len(v) for v in values], dtype=np.int64),
        log_odds_S=log_odds(mean_S, num_test=num_test).values,
    )


def _num_classes(trial: Trial) -> int:
    labels = trial.arrays["test_labels"]
    return int(labels.shape[1]) if labels.ndim == 2 else len(np.unique(labels))


def crossings(first: SizeCurve, second: SizeCurve) -> list[Crossing]:
    """Find where the better of two curves changes, over the sizes that both have; empty where it never does.

    Sizes at which both are exactly equal belong to the crossing that follows, if one does.
    """
    shots, in_first, in_second = np.intersect1d(first.shots_S, second.shots_S, return_indices=True)
    lead = first.log_odds_S[in_first] - second.log_odds_S[in_second]
    decided = np.flatnonzero(lead)
    found = []
    for before, after in pairwise(decided):
        if np.sign(lead[before]) == np.sign(lead[after]):
            continue
        fraction = lead[before] / (lead[before] - lead[after])
        low, high = np.log(shots[before]), np.log(shots[after])
        found.append(
            Crossing(
                shots=float(np.exp(low + fraction * (high - low))),
                between=(int(shots[before]), int(shots[after])),
                overtaken_by="first" if lead[after] > 0 else "second",
            )
        )
    return found
