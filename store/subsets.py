"""Subsets of k samples a class, drawn by seed: the data-size curves of Kornblith et al. 2019, section 4.7."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError
from penultimate.store.labels import PRESENT

# Shapes: N samples, K classes.


def shots_per_class(labels: NDArray[Any], shots: int, *, seed: int) -> NDArray[np.int64]:
    """Indices, increasing, of ``shots`` samples of each class that occurs in ``labels``, without replacement.

    ``labels`` are class indices (N,), or a matrix (N, K) of ``store.labels`` marks: then a sample may be drawn for
    several of its classes, and the union is returned. Class k of seed s is drawn by its own generator, so that subsets
    nest: the samples of 2 shots are among those of 5. Raises ``InputError`` naming a class with fewer samples.
    """
    if shots < 1:
        raise InputError(f"shots must be at least 1, got {shots}")
    classes = range(labels.shape[1]) if labels.ndim == 2 else np.unique(labels).tolist()
    drawn = []
    for label in classes:
        members = np.flatnonzero(labels[:, label] == PRESENT if labels.ndim == 2 else labels == label)
        if labels.ndim == 2 and not len(members):
            continue
        if len(members) < shots:
            raise InputError(f"class {label} has {len(members)} samples, fewer than the {shots} shots asked for")
        drawn.append(np.random.default_rng((seed, label)).permutation(members)[:shots])
    return np.unique(np.concatenate(drawn))
