"""Scores of a classifier beside its dataset's metric, each a number from ``Outputs``, by scikit-learn or SciPy.

Balanced accuracy is the metric ``mean_per_class`` (``engine.metrics``). The libraries are imported where they are
called: they are slow to import, and not every verb scores.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.metrics import METRICS, applicable
from penultimate.engine.scoring.outputs import Outputs
from penultimate.engine.scoring.reliability import Reliability
from penultimate.store.errors import InputError
from penultimate.store.labels import PRESENT, UNCOUNTED

# Shapes: N samples, K classes.


@dataclass(frozen=True, slots=True)
class Score:
    """A score by name."""

    of: Callable[[Outputs], float | None]
    """Function to the score; None where it is not defined, such as AUROC where all samples are of one class."""

    lower_is_better: bool = False
    needs_probabilities: bool = False


def macro_f1(outputs: Outputs) -> float | None:
    """Return the mean over classes of the F1 score; 0 for a class that is predicted and does not occur.

    Of several labels a sample those with a positive score are predicted, and classes without a positive are left out.
    """
    from sklearn.metrics import f1_score

    if not outputs.several:
        return float(f1_score(outputs.labels, outputs.scores_NK.argmax(1), average="macro"))
    each = [
        f1_score(truth_N, score_N > 0, zero_division=0) for truth_N, score_N in _classes(outputs, outputs.scores_NK)
    ]
    return float(np.mean(each)) if each else None


def auroc(outputs: Outputs) -> float | None:
    """Return the mean over classes of the area under the ROC curve, one class against the rest.

    Samples are ranked by the class's probability, or by its score where there is none. Classes that all samples or no
    sample shows are left out. The area is the Mann-Whitney statistic over the number of pairs (Hanley & McNeil 1982),
    ties counted half: scikit-learn's checks of its arguments, once a class, take several times as long.
    """
    from scipy.stats import rankdata

    def area(truth_N: NDArray[np.bool_], by_N: NDArray[Any]) -> float:
        shown, others = int(truth_N.sum()), int((~truth_N).sum())
        rank_N = rankdata(by_N, nan_policy="raise")
        return float((rank_N[truth_N].sum() - shown * (shown + 1) / 2) / (shown * others))

    ranked_NK = outputs.probabilities_NK if outputs.has_probabilities else outputs.scores_NK
    each = [area(truth_N, by_N) for truth_N, by_N in _classes(outputs, ranked_NK) if not truth_N.all()]
    return float(np.mean(each)) if each else None


def log_loss(outputs: Outputs) -> float | None:
    """Return the mean of -log(probability of the truth), nats; of several labels, over samples and classes.

    Probabilities are taken to be at least scikit-learn's 2.2e-16, so that one that is 0 costs 36 nats.
    """
    from sklearn.metrics import log_loss as of

    if outputs.several:
        return float(of(*outputs.pairs(), labels=[False, True]))
    known = range(outputs.scores_NK.shape[1])
    return _mean(outputs, lambda part: of(part.labels, part.probabilities_NK, labels=known))


def brier(outputs: Outputs) -> float | None:
    """Return the mean squared error of probabilities (Brier 1950): of one label summed over classes, so within [0, 2].

    Of several labels it is the mean over samples and classes, within [0, 1].
    """
    from sklearn.metrics import brier_score_loss as of

    if outputs.several:
        return float(of(*outputs.pairs(), pos_label=True))
    known = range(outputs.scores_NK.shape[1])
    return _mean(outputs, lambda part: of(part.labels, part.probabilities_NK, labels=known, scale_by_half=False))


def ece(outputs: Outputs) -> float | None:
    """Return the expected calibration error (``Reliability``)."""
    return Reliability.of(*outputs.confidence()).error


SCORES: dict[str, Score] = {
    "macro_f1": Score(macro_f1),
    "auroc": Score(auroc),
    "log_loss": Score(log_loss, lower_is_better=True, needs_probabilities=True),
    "brier": Score(brier, lower_is_better=True, needs_probabilities=True),
    "ece": Score(ece, lower_is_better=True, needs_probabilities=True),
}
"""Name -> score."""

OF_PROBABILITIES = tuple(name for name, score in SCORES.items() if score.needs_probabilities)
"""Names of the scores that a temperature changes."""

CHOICES = (*METRICS, *SCORES)
"""Names of everything that val can choose by."""


def score_all(outputs: Outputs) -> dict[str, float]:
    """Return every metric and score that these outputs allow; one that is not defined is absent."""
    found: dict[str, float] = {
        name: METRICS[name](outputs.scores_NK, outputs.labels) for name in applicable(outputs.labels)
    }
    return found | _defined(outputs, tuple(SCORES))


def score_probabilities(outputs: Outputs) -> dict[str, float]:
    """Return the scores that a temperature changes."""
    return _defined(outputs, OF_PROBABILITIES)


def value_of(name: str, outputs: Outputs) -> float:
    """Return the metric or score of that name; raises ``InputError`` where it is not defined."""
    if name in METRICS:
        return METRICS[name](outputs.scores_NK, outputs.labels)
    value = SCORES[name].of(outputs)
    if value is None:
        raise InputError(f"{name} is not defined for these labels, of one class only; choose by another score")
    return value


def goodness(name: str, value: float) -> float:
    """Return a metric or score with the sign with which more is better."""
    return -value if name in SCORES and SCORES[name].lower_is_better else value


def _defined(outputs: Outputs, names: tuple[str, ...]) -> dict[str, float]:
    possible = [name for name in names if outputs.has_probabilities or not SCORES[name].needs_probabilities]
    found = {name: SCORES[name].of(outputs) for name in possible}
    return {name: value for name, value in found.items() if value is not None}


def _classes(outputs: Outputs, by_NK: NDArray[Any]) -> Iterator[tuple[NDArray[np.bool_], NDArray[Any]]]:
    """Yield for each class that occurs whether each sample shows it, and the sample's number in ``by_NK``.

    Samples that are UNCOUNTED in a class are left out of it.
    """
    for k in range(by_NK.shape[1]):
        column_N = outputs.labels[:, k] if outputs.several else np.where(outputs.labels == k, PRESENT, 0)
        counted_N = column_N != UNCOUNTED
        if (column_N == PRESENT).any():
            yield column_N[counted_N] == PRESENT, by_NK[counted_N, k]


def _mean(outputs: Outputs, of: Callable[[Outputs], float]) -> float:
    """Return the mean over samples of a function that is one over the samples it is given, block by block."""
    parts = [(of(part), len(part.labels)) for part in outputs.blocks()]
    return float(np.average([value for value, _ in parts], weights=[count for _, count in parts]))
