"""SampleStates: contents, rows and failures of the samples of an extraction, as far as they are known."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format.contents import Content, is_known, no_contents
from penultimate.store.rows.known_rows import KnownRows
from penultimate.store.rows.record import NO_SOURCE, OWN

# Shapes: M samples of the ImageSet, B batch, P published.

_MOST_PUBLISHED = 65_536
"""Number of samples found by a dict before their rows are sorted among the others, which takes 0.1 s for a million."""


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
        self._first_of: dict[int, int] = {}
        """Last word of the content of each sample that is on its way, or was placed lately -> the first that has it."""
        self._twin_of: dict[int, int] = {}
        self._published: list[NDArray[np.int64]] = []
        """Samples whose rows are committed, but not among the known rows yet."""

    def offer(self, samples_B: NDArray[np.int64], contents_B3: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which samples are done with, (B,), by their contents: their row is there, or comes with another's."""
        self.contents_M3[samples_B] = contents_B3
        source_B, row_B, not_finite_B = self._known.find(contents_B3)
        done_B = row_B >= 0
        found = samples_B[done_B]
        self.source_M[found], self.row_M[found] = source_B[done_B], row_B[done_B]
        self.not_finite_M[found] = not_finite_B[done_B]
        pending = np.flatnonzero(~done_B & is_known(contents_B3))
        done_B[pending] = self._are_done_with(samples_B[pending], contents_B3[pending])
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
        self._published.append(samples)
        if sum(map(len, self._published)) >= _MOST_PUBLISHED:
            published, self._published = np.concatenate(self._published), []
            contents_P3 = self.contents_M3[published]
            self._known.add_own(contents_P3, self.row_M[published], self.not_finite_M[published])
            for key in contents_P3[:, 2].tolist():
                self._first_of.pop(key, None)
        for sample in self.failed_within(within):
            content_3 = self.contents_M3[sample]
            if content_3[1:].any():
                self._known.index.failed[_content(content_3)] = self.failed[sample]
                self._first_of.pop(int(content_3[2]), None)

    def waits(self, samples: range, settled: range) -> bool:
        """Return whether a sample of a range is to have the row of one outside ``settled`` of which none is known."""
        firsts = (first for twin, first in self._twin_of.items() if twin in samples and first not in settled)
        return any(self.row_M[first] < 0 and first not in self.failed for first in firsts)

    def failed_within(self, samples: range) -> Sequence[int]:
        """Return the samples of a range that failed, increasing."""
        return sorted(sample for sample in self.failed if sample in samples)

    def _are_done_with(self, samples_B: NDArray[np.int64], contents_B3: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which samples are known to fail, or are one more of a content that is on its way, (B,)."""
        done_B = np.zeros(len(samples_B), np.bool_)
        for position in self._known_to_fail(contents_B3):
            self.failed[int(samples_B[position])] = self._known.index.failed[_content(contents_B3[position])]
            done_B[position] = True
        left = np.flatnonzero(~done_B)
        keys, left_B = contents_B3[left, 2].tolist(), samples_B[left]
        firsts = np.fromiter(map(self._first_of.setdefault, keys, left_B.tolist()), np.int64, len(keys))
        for at in np.flatnonzero(firsts != left_B).tolist():
            key, sample = keys[at], int(left_B[at])
            first = self._first_of[key]
            if not np.array_equal(self.contents_M3[first], self.contents_M3[sample]):
                continue  # of another content, which ends alike: both are embedded, and the first stays in the dict
            if first < sample:
                self._twin_of[sample] = first
                done_B[left[at]] = True
            else:
                # Blocks are committed in their order, so that no sample may wait for a later one, even if that was
                # offered before it, because its content was known without reading: both are embedded then.
                self._first_of[key] = sample
        return done_B

    def _known_to_fail(self, contents_B3: NDArray[np.uint64]) -> Sequence[int]:
        """Return the positions of contents that could not be decoded before."""
        if not (failed := self._known.index.failed):
            return []
        return [position for position, content in enumerate(contents_B3.tolist()) if tuple(content) in failed]


def _content(content_3: NDArray[np.uint64]) -> Content:
    size, high, low = content_3.tolist()
    return size, high, low
