"""Hold one trial's prediction for every test sample, ready for intervals and paired tests."""

# Shapes: N test samples, K classes.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.analysis.statistics.compare import (
    Test,
    all_class_differences,
    mcnemar_test,
    mean_per_class_differences,
    permutation_test,
)
from penultimate.engine.analysis.statistics.interval import (
    Interval,
    map11_interval,
    mean_per_class_interval,
    top1_interval,
)
from penultimate.store.errors import InputError
from penultimate.store.format.layout import fixed_width
from penultimate.store.trials.trial import Trial


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrialPredictions:
    """Per-sample predictions on one test set."""

    metric: str
    """Metric of the trial; decides the interval and the test."""

    ids_N: NDArray[np.str_]
    labels: NDArray[Any]
    """(N,) class indices, or (N, K) with 1 where a sample shows a class."""

    outputs: NDArray[Any]
    """(N,) predicted class indices, or (N, K) logits where samples have several labels."""

    def __post_init__(self) -> None:
        if not (len(self.ids_N) == len(self.labels) == len(self.outputs) > 0):
            raise InputError(
                f"expected ids, labels and predictions of the same test samples, got {len(self.ids_N)}, "
                f"{len(self.labels)} and {len(self.outputs)}"
            )
        if len(np.unique(self.ids_N)) != len(self.ids_N):
            raise InputError(f"test ids must be unique, {len(self.ids_N) - len(np.unique(self.ids_N))} repeat")

    @classmethod
    def of(cls, trial: Trial) -> "TrialPredictions":
        """Return the predictions stored with ``trial``. Raises InputError where it has none."""
        outputs = "test_scores" if "test_scores" in trial.arrays else "test_predictions"  # several labels, or one
        missing = [name for name in ("test_ids", "test_labels", outputs) if name not in trial.arrays]
        if missing:
            raise InputError(f"trial {trial.id} of {trial.backbone} on {trial.dataset} kept no {', '.join(missing)}")
        return cls(
            metric=trial.metric,
            ids_N=fixed_width(trial.arrays["test_ids"]),
            labels=trial.arrays["test_labels"],
            outputs=trial.arrays[outputs],
        )

    @property
    def several_labels(self) -> bool:
        """Return True where a sample may show several classes."""
        return self.labels.ndim == 2

    @property
    def correct_N(self) -> NDArray[np.bool_]:
        """Return True for each sample that was predicted correctly. For samples of one label only."""
        return np.asarray(self.outputs == self.labels)

    def interval(self, value: float, *, seed: int) -> Interval | None:
        """Return the 95 % interval of the trial's ``value`` over test samples; None for a metric without one."""
        if self.metric == "top1":
            return top1_interval(self.correct_N)
        if self.metric == "mean_per_class":
            return mean_per_class_interval(self.correct_N, self.labels)
        if self.metric == "map11":
            return map11_interval(self.outputs, self.labels, value, seed=seed)
        return None

    def test_against(self, other: "TrialPredictions", *, seed: int) -> Test | None:
        """Test for no difference on the samples that both scored; None where they share none, or labels differ."""
        _, mine, theirs = np.intersect1d(self.ids_N, other.ids_N, assume_unique=True, return_indices=True)
        labels = self.labels[mine]
        if not len(mine) or labels.shape != other.labels[theirs].shape or np.any(labels != other.labels[theirs]):
            return None
        if self.several_labels:
            difference_N = all_class_differences(self.outputs[mine], other.outputs[theirs], labels)
            return permutation_test(difference_N, rng=np.random.default_rng(seed))
        right, others_right = self.correct_N[mine], other.correct_N[theirs]
        if self.metric == "mean_per_class":
            difference_N = mean_per_class_differences(right, others_right, labels)
            return permutation_test(difference_N, rng=np.random.default_rng(seed))
        return mcnemar_test(right, others_right)
