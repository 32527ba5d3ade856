"""RowIndex: rows of one embedding by the content of the sample they are of."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format.contents import Content, is_known
from penultimate.store.rows.record import NO_SOURCE

# Shapes: E entries, B contents looked up.

_RECENT = 65_536
"""Number of entries kept in a dict before they are sorted among the others, which takes 0.1 s for a million."""

_Entries = tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int64]]
"""Contents (E, 3), sources (E,) and rows (E,)."""


class RowIndex:
    """Find rows by content: arrays sorted at the first look-up, 36 bytes a row, and the newest entries in a dict.

    A content may have rows in several sources; the first that was added is found.
    """

    def __init__(self) -> None:
        self._sorted: _Entries = np.empty((0, 3), np.uint64), np.empty(0, np.int32), np.empty(0, np.int64)
        self._unsorted: list[_Entries] = []
        self._recent: dict[Content, tuple[int, int]] = {}
        self.failed: dict[Content, str] = {}
        """Content that could not be decoded -> the reason."""

    def add_many(self, contents_E3: NDArray[np.uint64], source_E: NDArray[np.int32], row_E: NDArray[np.int64]) -> None:
        """Add rows; contents that nobody knows and samples without a row are passed over."""
        kept_E = is_known(contents_E3) & (row_E >= 0)
        self._unsorted.append((contents_E3[kept_E], source_E[kept_E], row_E[kept_E]))

    def add(self, rows: Mapping[Content, tuple[int, int]]) -> None:
        """Add source and row of each content."""
        self._recent |= rows
        if len(self._recent) >= _RECENT:
            entries = np.array(list(self._recent.values()), np.int64)
            contents_E3 = np.array(list(self._recent), np.uint64)
            self._recent = {}
            self.add_many(contents_E3, entries[:, 0].astype(np.int32), entries[:, 1])

    def drop(self, source: int, rows: range) -> None:
        """Forget these rows of a source, but none of the newest."""
        contents_E3, source_E, row_E = self._sorted_entries()
        kept_E = (source_E != source) | (row_E < rows.start) | (row_E >= rows.stop)
        self._sorted = contents_E3[kept_E], source_E[kept_E], row_E[kept_E]

    def find(self, contents_B3: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return source and row of each content, NO_SOURCE and -1 where it is not here, (B,) each."""
        contents_E3, source_E, row_E = self._sorted_entries()
        source_B, row_B = np.full(len(contents_B3), NO_SOURCE, np.int32), np.full(len(contents_B3), -1, np.int64)
        pending_P = np.flatnonzero(is_known(contents_B3))
        entry_P = np.searchsorted(contents_E3[:, 2], contents_B3[pending_P, 2])
        while True:  # once, and once more for each entry that has the same low word and is of another content
            same_P = entry_P < len(row_E)
            same_P[same_P] = contents_E3[entry_P[same_P], 2] == contents_B3[pending_P[same_P], 2]
            pending_P, entry_P = pending_P[same_P], entry_P[same_P]
            if not len(pending_P):
                break
            equal_P = (contents_E3[entry_P] == contents_B3[pending_P]).all(axis=1)
            found = pending_P[equal_P]
            source_B[found], row_B[found] = source_E[entry_P[equal_P]], row_E[entry_P[equal_P]]
            pending_P, entry_P = pending_P[~equal_P], entry_P[~equal_P] + 1
        if self._recent:
            for position in np.flatnonzero(row_B < 0).tolist():
                size, high, low = contents_B3[position].tolist()
                if (entry := self._recent.get((size, high, low))) is not None:
                    source_B[position], row_B[position] = entry
        return source_B, row_B

    def _sorted_entries(self) -> _Entries:
        """Return all entries but the newest, by increasing low word of the content; equal ones as they were added."""
        if self._unsorted:
            contents_E3, source_E, row_E = (
                np.concatenate(parts) for parts in zip(self._sorted, *self._unsorted, strict=True)
            )
            self._unsorted = []
            order_E = np.argsort(contents_E3[:, 2], kind="stable")
            entries = contents_E3[order_E], source_E[order_E], row_E[order_E]
            # Sets that share a row have one entry for it, wherever no other content comes between.
            repeated_E = np.zeros(len(row_E), np.bool_)
            repeated_E[1:] = np.logical_and.reduce(
                [(entries[0][1:] == entries[0][:-1]).all(axis=1)] + [part[1:] == part[:-1] for part in entries[1:]]
            )
            self._sorted = entries[0][~repeated_E], entries[1][~repeated_E], entries[2][~repeated_E]
        return self._sorted
