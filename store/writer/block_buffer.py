"""BlockBuffer: what has become of the samples of one block, in memory, until it is committed."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Shapes: B batch, R samples of one block, D feature dimensions.


class BlockBuffer:
    """Collect the new features of a block's samples in any order, and which of its samples are still to come."""

    def __init__(self, samples: range) -> None:
        """Begin a block of ``samples``, all of which are to come."""
        self.samples = samples
        self._missing_R = np.ones(len(samples), np.bool_)
        self._samples: list[NDArray[np.int64]] = []
        self._parts: list[NDArray[Any]] = []
        self._started = time.perf_counter()

    @property
    def is_full(self) -> bool:
        """Return whether no sample is missing."""
        return not self._missing_R.any()

    @property
    def num_new(self) -> int:
        """Return the number of samples that have come with features."""
        return sum(map(len, self._parts))

    @property
    def seconds(self) -> float:
        """Return the seconds since the first sample was asked for."""
        return time.perf_counter() - self._started

    @property
    def missing(self) -> NDArray[np.int64]:
        """Return the samples still to come, increasing."""
        return np.flatnonzero(self._missing_R) + self.samples.start

    def misses(self, sample: int) -> bool:
        """Return whether this sample has not come yet."""
        return bool(self._missing_R[sample - self.samples.start])

    def fill(self, samples_B: NDArray[np.int64], features_BD: NDArray[Any]) -> None:
        """Take the features of some samples."""
        self._samples.append(samples_B)
        self._parts.append(features_BD)
        self.settle(samples_B)

    def settle(self, samples_B: NDArray[np.int64]) -> None:
        """Take note that some samples need no features: they failed, or their row is elsewhere."""
        self._missing_R[samples_B - self.samples.start] = False

    @property
    def new_samples(self) -> NDArray[np.int64]:
        """Return the samples that have come with features, increasing."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *self._samples]))

    def features(self) -> NDArray[Any]:
        """Return the features of ``new_samples``; at least one has come."""
        order = np.argsort(np.concatenate(self._samples))
        return np.concatenate(self._parts)[order]
