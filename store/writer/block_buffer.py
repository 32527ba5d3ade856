"""BlockBuffer: what has become of the samples of one block, in memory, until it is committed."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format.slices import slice_if_contiguous
from penultimate.store.plan import Plan

# Shapes: B batch, R samples of one block, of which N have new features, D feature dimensions.


class BlockBuffer:
    """Collect the new features of a block's samples in any order, and which of its samples are still to come."""

    def __init__(self, plan: Plan, block: int, free_memory: list[NDArray[Any]]) -> None:
        """Begin a block of which all samples are to come.

        Memory for features is taken when the first come, from ``free_memory`` where that has some: of other memory the
        kernel must map and clear every page first.
        """
        self.samples = plan.samples(range(block, block + 1))
        self._shape, self._dtype = (plan.shard_rows, plan.feature_dim), plan.embedding.dtype
        self._free_memory = free_memory
        self._memory: NDArray[Any] | None = None
        self._missing_R = np.ones(len(self.samples), np.bool_)
        self._new_R = np.zeros(len(self.samples), np.bool_)
        self._started = time.perf_counter()

    @property
    def is_full(self) -> bool:
        """Return whether no sample is missing."""
        return not self._missing_R.any()

    @property
    def num_new(self) -> int:
        """Return the number of samples that have come with features."""
        return int(self._new_R.sum())

    @property
    def seconds(self) -> float:
        """Return the seconds since the block was begun."""
        return time.perf_counter() - self._started

    @property
    def missing(self) -> NDArray[np.int64]:
        """Return the samples still to come, increasing."""
        return np.flatnonzero(self._missing_R) + self.samples.start

    @property
    def new_samples(self) -> NDArray[np.int64]:
        """Return the N samples that have come with features, increasing."""
        return np.flatnonzero(self._new_R) + self.samples.start

    @property
    def memory(self) -> NDArray[Any]:
        """Return the memory of the features, to be used again once the block is written."""
        if self._memory is None:
            self._memory = self._free_memory.pop() if self._free_memory else np.empty(self._shape, self._dtype)
        return self._memory

    @property
    def new_features(self) -> NDArray[Any]:
        """Return the features (N, D) of ``new_samples``."""
        if not self.num_new:
            return np.empty((0, self._shape[1]), self._dtype)
        features_RD = self.memory[: len(self.samples)]
        return features_RD if self._new_R.all() else features_RD[self._new_R]

    def misses(self, samples_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each of these samples is of this block and has not come, (B,)."""
        indices_B = samples_B - self.samples.start
        inside_B = (indices_B >= 0) & (indices_B < len(self.samples))
        return inside_B & self._missing_R[np.where(inside_B, indices_B, 0)]

    def fill(self, samples_B: NDArray[np.int64], features_BD: NDArray[Any]) -> None:
        """Take the features of some samples."""
        if not len(samples_B):
            return
        indices = slice_if_contiguous(samples_B - self.samples.start)
        self.memory[indices] = features_BD
        self._new_R[indices] = True
        self._missing_R[indices] = False

    def settle(self, samples_B: NDArray[np.int64]) -> None:
        """Take note that some samples need no features: they failed, or their row is elsewhere."""
        self._missing_R[samples_B - self.samples.start] = False
