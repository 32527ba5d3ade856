"""How far a row's neighbours usually are: the scale by which a distance is called small.

Two motorbikes on white are nearer to each other than two leopards in the grass ever are, unless both leopards are one
photograph. So a distance is compared with the distance from the same rows to their tenth neighbour, as Lowe (2004,
section 7.1) compares with the second; the tenth, so that a group of up to ten copies does not hide itself.
"""

import numpy as np
from numpy.typing import NDArray

# Shapes: N rows, P pairs.

NEIGHBOR = 10
"""Neighbour whose distance is a row's scale."""

DEFAULT_RATIO = 0.3
"""Largest distance of near-duplicates, as a fraction of the scale: of planted copies 95 % or more were nearer, but for
grey ones (``benchmarks/results/planted_twins_202611.md``)."""


def scales(kth_distance_N: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scale of each row, given the distance to its ``NEIGHBOR``-th (or in a small set its last) neighbour.

    At least half the median: among many copies of one image the tenth neighbour is a copy too.
    """
    return np.maximum(kth_distance_N, np.median(kth_distance_N) / 2)
