"""Outputs: scores of every class for labelled samples, the probabilities they stand for, and what a trial keeps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, softmax

from penultimate.store.errors import InputError
from penultimate.store.labels import PRESENT, UNCOUNTED

# Shapes: N samples, K classes, P pairs of a sample and a class.

KEPT_BYTES = 64_000_000
"""Largest size in bytes of the scores that a trial keeps; beyond it, it keeps probabilities of two classes a sample."""

BLOCK_ROWS = 4096


def probabilities(scores_NK: NDArray[np.float64], loss: str, *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities (N, K) of scores divided by ``temperature``; rows sum to 1 under softmax.

    Raises ``InputError`` for a squared hinge, which has none.
    """
    if loss == "softmax":
        result: NDArray[np.float64] = softmax(scores_NK / temperature, axis=1)
        return result
    if loss == "logistic":
        return np.asarray(expit(scores_NK / temperature))
    raise InputError("a squared hinge has no probabilities; use the scores, or loss='softmax'")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outputs:
    """Scores of labelled samples by one classifier."""

    scores_NK: NDArray[np.float32]
    labels: NDArray[Any]
    """Class indices (N,), or a matrix (N, K) of ``store.labels``."""

    loss: str
    """``softmax`` or ``logistic``: how scores become probabilities; ``squared_hinge``: not at all."""

    temperature: float = 1.0
    """Number by which scores are divided first (Guo et al. 2017, sec. 4.2), > 0."""

    @property
    def several(self) -> bool:
        """Return True where a sample may show several classes."""
        return self.labels.ndim == 2

    @property
    def has_probabilities(self) -> bool:
        """Return True unless the classifier gives scores without a probability."""
        return self.loss != "squared_hinge"

    @property
    def probabilities_NK(self) -> NDArray[np.float64]:
        """Return the probabilities of the classes; raises ``InputError`` where there are none.

        Those of one class a sample sum to 1 also where a classifier was fitted one against the rest: each class's is
        divided by the sum.
        """
        scores_NK = self.scores_NK.astype(np.float64)
        if self.loss == "logistic" and not self.several:  # sigmoids over their sum, which may round to 0
            return np.asarray(softmax(log_expit(scores_NK / self.temperature), axis=1))
        return probabilities(scores_NK, self.loss, temperature=self.temperature)

    def blocks(self) -> Iterator["Outputs"]:
        """Yield the outputs of at most ``BLOCK_ROWS`` samples at a time."""
        for start in range(0, len(self.labels), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            yield replace(self, scores_NK=self.scores_NK[rows], labels=self.labels[rows])

    def pairs(self) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return truth (P,) and probability (P,) of every sample and class that counts, for several labels a sample."""
        counted_NK = self.labels != UNCOUNTED
        return (self.labels == PRESENT)[counted_NK], self.probabilities_NK[counted_NK]

    def confidence(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the probability of what was predicted, and whether it was right: a sample, or a pair, each."""
        if self.several:
            truth_P, probability_P = self.pairs()
            return probability_P, truth_P
        highest_N = [block.probabilities_NK.max(1) for block in self.blocks()]
        return np.concatenate(highest_N), self.scores_NK.argmax(1) == self.labels

    def kept(self, ids_N: NDArray[Any], class_names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the arrays that a trial keeps, as the docstring of ``Trial.arrays`` lists them."""
        arrays = {"test_ids": ids_N, "test_labels": self.labels, "class_names": np.asarray(class_names, np.str_)}
        if self.several:
            return arrays | {"test_scores": self.scores_NK}
        predicted_N = self.scores_NK.argmax(1).astype(np.int64)
        arrays |= {"test_predictions": predicted_N}
        if 2 * self.scores_NK.size <= KEPT_BYTES:
            return arrays | {"test_class_scores": self._halved()}
        if not self.has_probabilities:
            return arrays
        both_N2 = np.concatenate([block._of_two() for block in self.blocks()])
        return arrays | {"test_probability": both_N2[:, 0], "test_probability_true": both_N2[:, 1]}

    def _halved(self) -> NDArray[np.float16]:
        """Return the scores as float16; under softmax less each sample's highest, which changes no probability."""
        scores_NK = self.scores_NK
        if self.loss == "softmax":
            scores_NK = scores_NK - scores_NK.max(1, keepdims=True)
        largest = np.finfo(np.float16).max
        return np.where(np.isfinite(scores_NK), np.clip(scores_NK, -largest, largest), scores_NK).astype(np.float16)

    def _of_two(self) -> NDArray[np.float32]:
        """Return the probabilities of the predicted and of the true class, (N, 2)."""
        probabilities_NK, rows_N = self.probabilities_NK, np.arange(len(self.labels))
        predicted_N = probabilities_NK[rows_N, self.scores_NK.argmax(1)]
        return np.stack([predicted_N, probabilities_NK[rows_N, self.labels]], axis=1).astype(np.float32)
