"""Rows of features scaled to length 1, of which every cosine distance is made."""

import numpy as np
from numpy.typing import NDArray

from penultimate.store.feature_set import FeatureSet
from penultimate.store.not_finite import check_finite

# Shapes: N rows, P pairs, D feature dimensions.

BATCH_ROWS = 16_384
"""Rows, or pairs of rows, that are worked on at once."""


def unit_rows(features: FeatureSet, rows_N: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read increasing rows of a set, each divided by its 2-norm, (N, D) float32; a row of zeros stays as it is.

    Memory is that of the result and one shard. Raises InputError, naming ids, where features are NaN or infinite.
    """
    unit_ND = np.empty((len(rows_N), features.feature_dim), np.float32)
    done = 0
    for rows_B, batch_BD in features.batches(BATCH_ROWS, rows=rows_N):
        check_finite(features, rows_B, batch_BD)
        unit_ND[done : done + len(rows_B)] = batch_BD
        done += len(rows_B)
    scale_to_unit(unit_ND)
    return unit_ND


def scale_to_unit(rows_ND: NDArray[np.float32]) -> None:
    """Divide each row by its 2-norm in place; a row of zeros stays as it is."""
    for start in range(0, len(rows_ND), BATCH_ROWS):
        batch_BD = rows_ND[start : start + BATCH_ROWS]
        norm_B = np.sqrt(np.einsum("bd,bd->b", batch_BD, batch_BD, dtype=np.float64)).astype(np.float32)
        batch_BD /= np.where(norm_B > 0, norm_B, 1)[:, None]


def pair_distances(
    first_ND: NDArray[np.float32],
    first_P: NDArray[np.int64],
    second_MD: NDArray[np.float32],
    second_P: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return the cosine distance of each pair of unit rows, (P,), computed in float64.

    1 - <x, y> loses the digits of a small distance; |x - y|^2 / 2, which it equals for rows of length 1, keeps them.
    A row of zeros has distance 1 to every row.
    """
    distance_P = np.empty(len(first_P), np.float32)
    for start in range(0, len(first_P), BATCH_ROWS):
        part = slice(start, start + BATCH_ROWS)
        first, second = first_ND[first_P[part]].astype(np.float64), second_MD[second_P[part]].astype(np.float64)
        difference = first - second
        has_direction = first.any(1) & second.any(1)
        distance_P[part] = np.where(has_direction, np.einsum("pd,pd->p", difference, difference) / 2, 1)
    return distance_P
