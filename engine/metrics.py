"""Score a classifier's outputs as fractions: top-1, top-5, mean per-class accuracy, 11-point mean average precision."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError, UnknownNameError
from penultimate.store.labels import PRESENT, UNCOUNTED

# Shapes: N samples, K classes.

Metric = Callable[[NDArray[np.floating[Any]], NDArray[Any]], float]
"""A function from scores (N, K) and labels (N,), or labels (N, K) of 0 and 1, to a fraction in [0, 1]."""


def top1(scores_NK: NDArray[np.floating[Any]], labels_N: NDArray[Any]) -> float:
    """Return the fraction of samples whose highest score is their class's; among equal scores the first is highest."""
    _check_single(labels_N)
    return float(np.mean(scores_NK.argmax(1) == labels_N))


def top5(scores_NK: NDArray[np.floating[Any]], labels_N: NDArray[Any]) -> float:
    """Return the fraction of samples with fewer than 5 classes scoring above theirs.

    It is 1 by definition with 5 classes or fewer. With more, a class scored -inf is ruled out and never counts: among
    neighbours that vote for two classes, not every other class is third.
    """
    _check_single(labels_N)
    own_N = scores_NK[np.arange(len(labels_N)), labels_N]
    possible_N = (own_N > -np.inf) | (scores_NK.shape[1] <= 5)
    return float(np.mean(((scores_NK > own_N[:, None]).sum(1) < 5) & possible_N))


def mean_per_class(scores_NK: NDArray[np.floating[Any]], labels_N: NDArray[Any]) -> float:
    """Return the mean, over the classes that occur in ``labels_N``, of the top-1 accuracy within the class."""
    _check_single(labels_N)
    counts_K = np.bincount(labels_N, minlength=scores_NK.shape[1])
    hits_K = np.bincount(labels_N[scores_NK.argmax(1) == labels_N], minlength=scores_NK.shape[1])
    occurs_K = counts_K > 0
    return float(np.mean(hits_K[occurs_K] / counts_K[occurs_K]))


def map11(scores_NK: NDArray[np.floating[Any]], labels_NK: NDArray[Any]) -> float:
    """Return the mean over classes of VOC 2007's 11-point average precision (Everingham et al. 2010, sec. 4.2).

    Classes without a positive are left out: their recall is not defined. Samples that are ``UNCOUNTED`` in a class
    are left out of that class, as the devkit leaves those with difficult objects alone. Single labels (N,) are taken
    one against rest. Raises InputError if no class has a positive.
    """
    if labels_NK.ndim == 1:
        labels_NK = labels_NK[:, None] == np.arange(scores_NK.shape[1])
    occurring = np.flatnonzero((labels_NK == PRESENT).any(0))
    if not len(occurring):
        raise InputError("map11 needs at least one positive label, got none")
    counts_NK = labels_NK != UNCOUNTED
    precisions = [
        average_precision_11(scores_NK[counts_N, k], labels_NK[counts_N, k] == PRESENT)
        for k, counts_N in ((k, counts_NK[:, k]) for k in occurring)
    ]
    return float(np.mean(precisions))


def average_precision_11(scores_N: NDArray[np.floating[Any]], positive_N: NDArray[np.bool_]) -> float:
    """Return the mean over recalls t = 0, 0.1 ... 1 of the highest precision at a recall >= t.

    Samples of equal score are counted together, so that their order does not matter; without ties this is the devkit's
    value.
    """
    order = np.argsort(-scores_N, kind="stable")
    hits_N = np.cumsum(positive_N[order])
    last_of_ties = np.append(np.flatnonzero(np.diff(scores_N[order])), len(order) - 1)
    hits, taken = hits_N[last_of_ties], last_of_ties + 1
    precision, tenths = hits / taken, 10 * hits
    # Integers decide whether recall >= t (10 hits >= 10 t positives), so that 3/10 counts as a recall of 0.3.
    best = [precision[tenths >= t * hits_N[-1]].max() for t in range(11)]
    return float(np.mean(best))


METRICS: dict[str, Metric] = {"top1": top1, "top5": top5, "mean_per_class": mean_per_class, "map11": map11}
"""Name -> metric."""


def metric_named(name: str) -> Metric:
    """Return the metric of that name, or raise UnknownNameError with the nearest names."""
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]


def applicable(labels: NDArray[Any]) -> tuple[str, ...]:
    """Return the names of the metrics that these labels allow."""
    return ("map11",) if labels.ndim == 2 else ("top1", "top5", "mean_per_class")


def _check_single(labels: NDArray[Any]) -> None:
    if labels.ndim != 1:
        raise InputError("this metric needs one class a sample, got a label matrix; use map11")
