"""RowSummary: the checksum of rows and how many are not finite, from their chunks as these are encoded."""

from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

# Shapes: B rows of one chunk, D feature dimensions.

_INFINITY_BITS = {"float32": 0x7F80_0000, "float16": 0x7C00}
"""An IEEE 754 value without its sign is NaN or infinite exactly if its bits, as an integer, are at least these."""


class RowSummary:
    """Takes chunks of rows in their order, and is what ``layout.values_checksum`` and ``isfinite`` say of them all.

    Chunk by chunk beside their encoding, a shard takes half the time that three passes over all of it take, since a
    chunk is still in the processor's cache.
    """

    def __init__(self) -> None:
        self._checksum = xxhash.xxh3_128()
        self.num_not_finite = 0
        """Number of rows with a NaN or an infinity."""

    def add(self, rows_BD: NDArray[Any]) -> None:
        """Take the next rows: C-contiguous little-endian float32 or float16."""
        self._checksum.update(rows_BD.data)
        self.num_not_finite += num_not_finite(rows_BD)

    @property
    def checksum(self) -> str:
        """Return XXH3-128 of the rows' bytes, 32 hex digits."""
        return self._checksum.hexdigest()


def num_not_finite(rows_BD: NDArray[Any]) -> int:
    """Return how many rows of float32 or float16 hold a NaN or an infinity."""
    infinity = _INFINITY_BITS[rows_BD.dtype.name]
    bits_BD = rows_BD.view(f"u{rows_BD.itemsize}")
    # As integers, because NumPy's isfinite takes six times as long for float16; and first of all values at once,
    # because the largest of each row takes twice as long.
    largest = np.bitwise_and(bits_BD, np.array(np.iinfo(bits_BD.dtype).max >> 1, bits_BD.dtype)).max(initial=0)
    return 0 if largest < infinity else int((~np.isfinite(rows_BD)).any(axis=1).sum())
