"""ShardBuffer: the rows of one shard in memory, until the last of them has come."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.plan import Plan
from penultimate.store.slices import slice_if_contiguous
from penultimate.store.writer.row_summary import num_not_finite

# Shapes: B batch, R rows of one shard, D feature dimensions.


class ShardBuffer:
    """Collect the features of one shard in any order; rows that failed hold NaN."""

    def __init__(self, plan: Plan, shard: int, *, memory: NDArray[Any] | None = None) -> None:
        """``memory`` is that of a buffer that is no longer needed, to be used again: of other memory, the kernel has to
        map and clear every page first.
        """
        if memory is None:
            memory = np.empty((plan.shard_rows, plan.feature_dim), dtype=plan.key.dtype)
        self.memory = memory
        self.rows = plan.rows(shard)
        self.features_RD: NDArray[Any] = memory[: len(self.rows)]
        self.failed: dict[int, str] = {}
        """Reason for each row, counted from the first of the key, that has no features."""
        self._missing_R = np.ones(len(self.rows), dtype=np.bool_)
        self._started = time.perf_counter()

    @property
    def is_full(self) -> bool:
        """Return whether every row has come, with features or as failed."""
        return not self._missing_R.any()

    @property
    def seconds(self) -> float:
        """Return the seconds since the first row came."""
        return time.perf_counter() - self._started

    @property
    def num_not_finite(self) -> int:
        """Return how many rows that did not fail hold NaN or infinity."""
        return num_not_finite(self.features_RD) - len(self.failed)

    def misses(self, rows_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each of these rows, counted from the first of the key, is of this shard and has not come."""
        indices_B = rows_B - self.rows.start
        inside_B = (indices_B >= 0) & (indices_B < len(self.rows))
        return inside_B & self._missing_R[np.where(inside_B, indices_B, 0)]

    def fill(self, rows_B: NDArray[np.int64] | Sequence[int], features_BD: NDArray[Any]) -> None:
        """Take the features of some rows, which are counted from the first of the key."""
        indices = slice_if_contiguous(np.asarray(rows_B, dtype=np.int64) - self.rows.start)
        self.features_RD[indices] = features_BD
        self._missing_R[indices] = False

    def fail(self, row: int, reason: str) -> None:
        """Record that a row has no features."""
        self.failed[row] = reason
        self.features_RD[row - self.rows.start] = np.nan
        self._missing_R[row - self.rows.start] = False
