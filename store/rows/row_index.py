"""RowIndex: rows of one embedding by the content of the sample they are of."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format.contents import Content, is_known
from penultimate.store.rows.record import NO_SOURCE

# Shapes: E entries, B contents looked up.

_Entries = tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int64]]
"""Contents (E, 3), sources (E,) and rows (E,)."""


class RowIndex:
    """Find rows by content: arrays that are ordered at the first look-up after some were added.

    A content may have rows in several sources; the first that was added is found. A million entries take 60 MB.
    """

    def __init__(self) -> None:
        self._entries: _Entries = np.empty((0, 3), np.uint64), np.empty(0, np.int32), np.empty(0, np.int64)
        self._low_E = np.empty(0, np.uint64)
        """Last words of the contents, increasing."""
        self._order_E = np.empty(0, np.int64)
        """Entry of each of these."""
        self._unsorted: list[_Entries] = []
        self.failed: dict[Content, str] = {}
        """Content that could not be decoded -> the reason."""

    def add_many(self, contents_E3: NDArray[np.uint64], source_E: NDArray[np.int32], row_E: NDArray[np.int64]) -> None:
        """Add rows; contents that nobody knows and samples without a row are passed over."""
        kept_E = is_known(contents_E3) & (row_E >= 0)
        entries = contents_E3, source_E, row_E
        self._unsorted.append(entries if kept_E.all() else (contents_E3[kept_E], source_E[kept_E], row_E[kept_E]))

    def drop(self, source: int, rows: range) -> None:
        """Forget these rows of a source."""
        self._sort()
        contents_E3, source_E, row_E = self._entries
        kept_E = (source_E != source) | (row_E < rows.start) | (row_E >= rows.stop)
        self._unsorted = [(contents_E3[kept_E], source_E[kept_E], row_E[kept_E])]
        self._entries = contents_E3[:0], source_E[:0], row_E[:0]

    def find(self, contents_B3: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return source and row of each content, NO_SOURCE and -1 where it is not here, (B,) each."""
        self._sort()
        contents_E3, source_E, row_E = self._entries
        source_B, row_B = np.full(len(contents_B3), NO_SOURCE, np.int32), np.full(len(contents_B3), -1, np.int64)
        if not len(row_E):
            return source_B, row_B
        pending_P = np.flatnonzero(is_known(contents_B3))
        position_P = np.searchsorted(self._low_E, contents_B3[pending_P, 2])
        while True:  # once, and once more for each entry that has the same low word and is of another content
            same_P = position_P < len(row_E)
            same_P[same_P] = self._low_E[position_P[same_P]] == contents_B3[pending_P[same_P], 2]
            pending_P, position_P = pending_P[same_P], position_P[same_P]
            if not len(pending_P):
                break
            entry_P = self._order_E[position_P]
            equal_P = (contents_E3[entry_P] == contents_B3[pending_P]).all(axis=1)
            found, entry_P = pending_P[equal_P], entry_P[equal_P]
            source_B[found], row_B[found] = source_E[entry_P], row_E[entry_P]
            pending_P, position_P = pending_P[~equal_P], position_P[~equal_P] + 1
        return source_B, row_B

    def _sort(self) -> None:
        """Take in what was added, and order all entries by their low word, equal ones as they were added."""
        if not self._unsorted:
            return
        parts = [part for part in (self._entries, *self._unsorted) if len(part[1])]
        self._unsorted = []
        if parts:
            self._entries = parts[0] if len(parts) == 1 else _joined(parts)
            low_E = np.ascontiguousarray(self._entries[0][:, 2])
            self._order_E = np.argsort(low_E, kind="stable")
            self._low_E = low_E[self._order_E]


def _joined(parts: Sequence[_Entries]) -> _Entries:
    """Return the entries of several parts, in their order; rows that several sets share come once."""
    contents_E3, source_E, row_E = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    _, first = np.unique(source_E.astype(np.int64) << 40 | row_E, return_index=True)
    first.sort()
    return contents_E3[first], source_E[first], row_E[first]
