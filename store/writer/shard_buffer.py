"""ShardBuffer: the rows of one shard in memory, until the last of them has come."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.plan import Plan

# Shapes: B batch, R rows of one shard, D feature dimensions.


class ShardBuffer:
    """Collect the features of one shard in any order; rows that failed keep NaN."""

    def __init__(self, plan: Plan, shard: int) -> None:
        self.rows = plan.rows(shard)
        self.features_RD: NDArray[Any] = np.full((len(self.rows), plan.feature_dim), np.nan, dtype=plan.key.dtype)
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
        finite_R = np.isfinite(self.features_RD).all(axis=1)
        return int((~finite_R).sum()) - len(self.failed)

    def misses(self, row: int) -> bool:
        """Return whether this row of the key has not come yet."""
        return bool(self._missing_R[row - self.rows.start])

    def fill(self, rows_B: NDArray[np.int64] | Sequence[int], features_BD: NDArray[Any]) -> None:
        """Take the features of some rows, which are counted from the first of the key."""
        indices_B = np.asarray(rows_B, dtype=np.int64) - self.rows.start
        self.features_RD[indices_B] = features_BD
        self._missing_R[indices_B] = False

    def fail(self, row: int, reason: str) -> None:
        """Record that a row has no features."""
        self.failed[row] = reason
        self._missing_R[row - self.rows.start] = False
