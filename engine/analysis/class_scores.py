"""Score each class of a trial's test set, and find what it is mistaken for, from the predictions it kept."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from penultimate.store.trials.trial import Trial

# Shapes: K classes.


_Examples = defaultdict[tuple[int, ...], list[str]]

EXAMPLES = 4
"""Number of samples of a confusion whose ids are kept, to be shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """Accuracy on the test samples of one class."""

    name: str
    num_test: int
    num_right: int
    interval: tuple[float, float]
    """95 % interval over test samples, Wilson's score interval (Wilson 1927)."""

    @property
    def accuracy(self) -> float:
        """Return the fraction that was predicted correctly."""
        return self.num_right / self.num_test


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """Samples of one class that were taken for another."""

    truth: str
    predicted: str
    count: int
    num_test: int
    """Number of test samples of the true class."""

    ids: tuple[str, ...]
    """Ids of the first ``EXAMPLES`` of them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassScores:
    """The classes that occur in one trial's test set, the hardest first."""

    classes: tuple[ClassScore, ...]
    confusions: tuple[Confusion, ...]
    """All of them, the most frequent first."""

    matrix_KK: NDArray[np.int64]
    """Number of test samples by true class (rows) and predicted class (columns), as scikit-learn counts them."""

    names: tuple[str, ...]
    """Name of each row and column of the matrix."""

    @classmethod
    def of(cls, trial: Trial) -> "ClassScores | None":
        """Count the predictions of ``trial``; None where its samples have several labels."""
        if "test_predictions" not in trial.arrays:
            return None
        from sklearn.metrics import confusion_matrix  # slow to import, and not every verb scores

        labels_N, predicted_N = trial.arrays["test_labels"], trial.arrays["test_predictions"]
        known_K = np.union1d(labels_N, predicted_N).astype(int)
        names = tuple(_name(trial, k) for k in known_K.tolist())
        matrix_KK = confusion_matrix(labels_N, predicted_N, labels=known_K)
        return cls(
            classes=_classes(matrix_KK, names),
            confusions=_confusions(matrix_KK, names, _examples(trial, known_K)),
            matrix_KK=matrix_KK,
            names=names,
        )


def _name(trial: Trial, k: int) -> str:
    """Return the name of a class; its number in trials that were written before names were kept."""
    names = trial.arrays.get("class_names")
    return f"class {k}" if names is None else str(names[k])


def _classes(matrix_KK: NDArray[Any], names: tuple[str, ...]) -> tuple[ClassScore, ...]:
    found = []
    for k in np.flatnonzero(matrix_KK.sum(1)).tolist():
        right, total = int(matrix_KK[k, k]), int(matrix_KK[k].sum())
        wilson = binomtest(right, total).proportion_ci(0.95, method="wilson")
        interval = float(wilson.low), float(wilson.high)
        found.append(ClassScore(name=names[k], num_test=total, num_right=right, interval=interval))
    return tuple(sorted(found, key=lambda each: (each.accuracy, -each.num_test, each.name)))


def _confusions(matrix_KK: NDArray[Any], names: tuple[str, ...], examples: _Examples) -> tuple[Confusion, ...]:
    wrong_KK = matrix_KK - np.diag(np.diag(matrix_KK))
    found = [
        Confusion(
            truth=names[t],
            predicted=names[p],
            count=int(wrong_KK[t, p]),
            num_test=int(matrix_KK[t].sum()),
            ids=tuple(examples[t, p]),
        )
        for t, p in np.argwhere(wrong_KK).tolist()
    ]
    return tuple(sorted(found, key=lambda each: (-each.count, each.truth, each.predicted)))


def _examples(trial: Trial, known_K: NDArray[np.int64]) -> _Examples:
    """Return the first ids of each pair of a true and another predicted class, by their indices among ``known_K``."""
    labels_N, predicted_N = trial.arrays["test_labels"], trial.arrays["test_predictions"]
    found: _Examples = defaultdict(list)
    for n in np.flatnonzero(labels_N != predicted_N).tolist():
        cell = tuple(np.searchsorted(known_K, [labels_N[n], predicted_N[n]]).tolist())
        if len(found[cell]) < EXAMPLES:
            found[cell].append(str(trial.arrays["test_ids"][n]))
    return found
