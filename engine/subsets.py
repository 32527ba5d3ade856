"""Subsets of k images a class: the same for the probe and the trainer, since both ask here."""

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError

# Shapes: N samples of the set, M of the subset.


def shots_subset(rows: NDArray[np.int64], labels_N: NDArray[np.int64], *, shots: int, seed: int) -> NDArray[np.int64]:
    """``shots`` of ``rows`` for each class among them, in increasing order; a larger subset of a seed holds a smaller.

    A class is shuffled by its own generator, seeded with ``(seed, class)``. Raises InputError for samples of several
    labels and for a class with fewer rows than ``shots``.
    """
    if labels_N.ndim != 1:
        raise InputError("subsets of k images a class need one label an image; these have several")
    chosen = []
    for label in np.unique(labels_N[rows]).tolist():
        members = rows[labels_N[rows] == label]
        if len(members) < shots:
            raise InputError(
                f"class {label} has {len(members)} training images, fewer than the {shots} shots asked for"
            )
        chosen.append(np.random.default_rng((seed, label)).permutation(members)[:shots])
    return np.sort(np.concatenate(chosen))
