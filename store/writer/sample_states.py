"""SampleStates: contents, rows and failures of the samples of an extraction, as far as they are known."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format.contents import UNREADABLE, Content, is_unknown, no_contents
from penultimate.store.rows.known_rows import KnownRows
from penultimate.store.rows.record import NO_SOURCE, OWN

# Shapes: M samples of the ImageSet, B batch.


class SampleStates:
    """Where the row of each sample is: in the store already, still to come, or nowhere because the sample failed."""

    def __init__(self, num_samples: int, known: KnownRows) -> None:
        self.contents_M3 = no_contents(num_samples)
        self.source_M = np.full(num_samples, NO_SOURCE, np.int32)
        """Source of each sample's row, as ``KnownRows`` counts them."""
        self.row_M = np.full(num_samples, -1, np.int64)
        self.not_finite_M = np.zeros(num_samples, np.bool_)
        self.failed: dict[int, str] = {}
        self._known = known
        self._first_of: dict[Content, int] = {}
        self._twin_of: dict[int, int] = {}

    def offer(self, samples_B: NDArray[np.int64], contents_B3: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which samples are done with, (B,), by their contents: their row is there, or comes with another's."""
        self.contents_M3[samples_B] = contents_B3
        source_B, row_B, not_finite_B = self._known.find(contents_B3)
        done_B = row_B >= 0
        found = samples_B[done_B]
        self.source_M[found], self.row_M[found] = source_B[done_B], row_B[done_B]
        self.not_finite_M[found] = not_finite_B[done_B]
        for position in np.flatnonzero(~done_B & ~is_unknown(contents_B3)).tolist():
            size, high, low = contents_B3[position].tolist()
            done_B[position] = self._is_done_with(int(samples_B[position]), (size, high, low))
        return done_B

    def fail(self, failed: Mapping[int, str]) -> None:
        """Record samples that have no features, with the reasons."""
        self.failed |= failed

    def place(self, samples: NDArray[np.int64], first_row: int, *, within: range) -> None:
        """Say that the features of ``samples`` are the own rows from ``first_row`` on, and settle those ``within``.

        Settled samples are all done with; twins among them refer to samples that are settled now or were before.
        """
        self.source_M[samples] = OWN
        self.row_M[samples] = first_row + np.arange(len(samples))
        for twin in [sample for sample in self._twin_of if sample in within]:
            first = self._twin_of.pop(twin)
            if (reason := self.failed.get(first)) is not None:
                self.failed[twin] = reason
            self.source_M[twin], self.row_M[twin] = self.source_M[first], self.row_M[first]
            self.not_finite_M[twin] = self.not_finite_M[first]

    def publish(self, samples: NDArray[np.int64], *, within: range) -> None:
        """Let later samples of the same content refer to these own rows, which are committed now."""
        contents_B3 = self.contents_M3[samples]
        self._known.add_own(contents_B3, self.row_M[samples], self.not_finite_M[samples])
        for size, high, low in contents_B3[~is_unknown(contents_B3)].tolist():
            self._first_of.pop((size, high, low), None)
        for sample in self.failed_within(within):
            size, high, low = self.contents_M3[sample].tolist()
            if high or low:
                self._known.index.failed[size, high, low] = self.failed[sample]
                self._first_of.pop((size, high, low), None)

    def waits(self, samples: range, settled: range) -> bool:
        """Return whether a sample of a range is to have the row of one outside ``settled`` of which none is known."""
        firsts = (first for twin, first in self._twin_of.items() if twin in samples and first not in settled)
        return any(self.row_M[first] < 0 and first not in self.failed for first in firsts)

    def failed_within(self, samples: range) -> Sequence[int]:
        """Return the samples of a range that failed, increasing."""
        return sorted(sample for sample in self.failed if sample in samples)

    def _is_done_with(self, sample: int, content: Content) -> bool:
        """Return whether a sample is known to fail, or is one more of a content that is on its way."""
        if content == UNREADABLE:
            return False
        if (reason := self._known.index.failed.get(content)) is not None:
            self.failed[sample] = reason
            return True
        if (first := self._first_of.setdefault(content, sample)) < sample:
            self._twin_of[sample] = first
            return True
        # Blocks are committed in their order, so that no sample may wait for a later one, even if that was offered
        # before it, because its content was known without reading: both are embedded then.
        self._first_of[content] = sample
        return False
