"""Draw subsets of k samples per class by seed, for the data-size curves of Kornblith et al. 2019, section 4.7.

Probes and trained networks both draw them here, so that they see the same samples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penultimate.store.errors import InputError
from penultimate.store.labels import PRESENT

# Shapes: N samples, K classes.


def shots_per_class(
    labels: NDArray[Any], ids_N: Sequence[str] | NDArray[Any], shots: int, *, seed: int
) -> NDArray[np.int64]:
    """Return the increasing indices of ``shots`` samples of each class in ``labels``, drawn without replacement.

    ``labels`` are class indices (N,), or a matrix (N, K) of ``store.labels`` marks: then a sample may be drawn for
    several of its classes, and the union is returned. The samples of a class are ranked by a hash of seed, class and
    id, and the first are taken. So subsets nest (the samples of 2 shots are among those of 5), and where a sample is
    missing, because it could not be decoded, the next stands in for it and the others stay. Raises ``InputError``
    naming a class with fewer samples.
    """
    if shots < 1:
        raise InputError(f"shots must be at least 1, got {shots}")
    classes = range(labels.shape[1]) if labels.ndim == 2 else np.unique(labels).tolist()
    drawn: list[int] = []
    for label in classes:
        members = np.flatnonzero(labels[:, label] == PRESENT if labels.ndim == 2 else labels == label).tolist()
        if labels.ndim == 2 and not members:
            continue
        if len(members) < shots:
            raise InputError(f"class {label} has {len(members)} samples, fewer than the {shots} shots asked for")
        ranks = {index: xxhash.xxh3_128_hexdigest(f"{seed}/{label}/{ids_N[index]}".encode()) for index in members}
        drawn += sorted(members, key=ranks.__getitem__)[:shots]
    return np.unique(np.array(drawn, dtype=np.int64))
