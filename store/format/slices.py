"""Slices in place of row numbers, because indexing by a slice copies nothing."""

import numpy as np
from numpy.typing import NDArray


def slice_if_contiguous(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return a slice that is equivalent to ``rows``, which are at least one, where each is one more than the last."""
    if rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
