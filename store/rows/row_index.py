"""RowIndex: rows of one embedding by the content of the sample they are of."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format.contents import Content, is_known
from penultimate.store.rows.record import NO_SOURCE

# Shapes: E entries, B contents looked up.

_RECENT = 65_536
"""Number of entries kept in a dict before they are sorted among the others, which takes 0.1 s for a million."""


class RowIndex:
    """Find rows by content: sorted arrays, 44 bytes a row, and the newest entries in a dict."""

    def __init__(self) -> None:
        self._contents_E3 = np.empty((0, 3), np.uint64)
        self._source_E = np.empty(0, np.int32)
        self._row_E = np.empty(0, np.int64)
        self._recent: dict[Content, tuple[int, int]] = {}
        self.failed: dict[Content, str] = {}
        """Content that could not be decoded -> the reason."""

    def __len__(self) -> int:
        return len(self._row_E) + len(self._recent)

    def add_many(self, contents_E3: NDArray[np.uint64], source_E: NDArray[np.int32], row_E: NDArray[np.int64]) -> None:
        """Add rows; contents that nobody knows and samples without a row are passed over."""
        kept = is_known(contents_E3) & (row_E >= 0)
        contents_E3 = np.concatenate([self._contents_E3, contents_E3[kept]])
        order_E = np.argsort(contents_E3[:, 2], kind="stable")
        self._contents_E3 = contents_E3[order_E]
        self._source_E = np.concatenate([self._source_E, source_E[kept].astype(np.int32)])[order_E]
        self._row_E = np.concatenate([self._row_E, row_E[kept]])[order_E]

    def add(self, rows: Mapping[Content, tuple[int, int]]) -> None:
        """Add source and row of each content."""
        self._recent |= rows
        if len(self._recent) >= _RECENT:
            entries = np.array(list(self._recent.values()), np.int64)
            contents_E3 = np.array(list(self._recent), np.uint64)
            self._recent = {}
            self.add_many(contents_E3, entries[:, 0].astype(np.int32), entries[:, 1])

    def drop(self, damaged: NDArray[np.bool_], source: int, rows: NDArray[np.int64]) -> None:
        """Forget the entries of ``source`` whose row is among the ``damaged`` of ``rows``."""
        kept = ~((self._source_E == source) & np.isin(self._row_E, rows[damaged]))
        self._contents_E3, self._source_E, self._row_E = (
            self._contents_E3[kept],
            self._source_E[kept],
            self._row_E[kept],
        )

    def find(self, contents_B3: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return source and row of each content, NO_SOURCE and -1 where it is not here, (B,) each."""
        source_B, row_B = np.full(len(contents_B3), NO_SOURCE, np.int32), np.full(len(contents_B3), -1, np.int64)
        if len(self._row_E):
            at_B = np.searchsorted(self._contents_E3[:, 2], contents_B3[:, 2]).clip(max=len(self._row_E) - 1)
            found_B = (self._contents_E3[at_B] == contents_B3).all(axis=1) & is_known(contents_B3)
            source_B[found_B], row_B[found_B] = self._source_E[at_B[found_B]], self._row_E[at_B[found_B]]
        if self._recent:
            for position in np.flatnonzero(row_B < 0).tolist():
                size, high, low = contents_B3[position].tolist()
                if (entry := self._recent.get((size, high, low))) is not None:
                    source_B[position], row_B[position] = entry
        return source_B, row_B
