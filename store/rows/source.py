"""RowSource: an array of rows that sets refer to, read with every checksum verified."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format import layout
from penultimate.store.format.documents import PLAN
from penultimate.store.format.feature_rows import ZarrRows, open_rows
from penultimate.store.format.shard_reader import ShardReader, on_threads
from penultimate.store.format.slices import slice_if_contiguous
from penultimate.store.not_finite import not_finite_rows
from penultimate.store.objects.objects import Objects

# Shapes: R rows of a source, B rows wanted, D feature dimensions.

_FAR_APART = 3 * layout.CHUNK_ROWS
"""Rows between two wanted ones from which on, in a folder, they are read apart: at least two chunks lie between them.
Opening a shard and checking its index takes about as long as reading one."""


class RowSource:
    """The ``features`` array, (R, D), of the folder at ``path``; opened when it is first read."""

    def __init__(self, objects: Objects, path: str, *, num_rows: int, shard_rows: int) -> None:
        self._objects = objects
        self.path = path
        self.num_rows = num_rows
        """R; shards that were not needed do not exist, and no set refers to their rows."""
        self.shard_rows = shard_rows

    @classmethod
    def of(cls, objects: Objects, about: Mapping[str, Any]) -> "RowSource":
        """Return the source that a set's attributes tell ``about``."""
        return cls(objects, about["path"], num_rows=about["num_rows"], shard_rows=about["shard_rows"])

    @classmethod
    def at(cls, objects: Objects, path: str) -> "RowSource":
        """Return the source at ``path``, by its plan; raises CorruptFeaturesError where there is none."""
        name = f"{path}/{layout.PLAN_OBJECT}"
        plan = PLAN.read(objects.get(name) or b"", objects.where(name))
        num_rows = plan["num_rows" if plan["format"] == 1 else "num_samples"]
        return cls(objects, path, num_rows=num_rows, shard_rows=plan["shard_rows"])

    def about(self) -> dict[str, Any]:
        """Return what a set's attributes tell about this source."""
        return {"path": self.path, "num_rows": self.num_rows, "shard_rows": self.shard_rows}

    def read_into(self, out_ND: NDArray[Any], positions_B: NDArray[np.int64], rows_B: NDArray[np.int64]) -> None:
        """Write row ``rows_B[i]`` into ``out_ND[positions_B[i]]``; no row is read twice.

        Of a shard is read what lies between the first and the last of them or, in a folder, of each of several parts
        where these lie far apart. A wrong checksum or a lost shard raises CorruptFeaturesError, which names the rows.
        """
        positions, rows = slice_if_contiguous(positions_B), slice_if_contiguous(rows_B)
        if isinstance(positions, slice) and isinstance(rows, slice):
            self._rows.read_into(range(rows.start, rows.stop), out_ND[positions])
            return
        order_B = np.argsort(rows_B, kind="stable")
        sorted_B = rows_B[order_B]
        is_apart_B = np.diff(sorted_B // self.shard_rows) > 0
        if self._objects.is_local:  # elsewhere each part is one more request, of the whole shard
            is_apart_B |= np.diff(sorted_B) >= _FAR_APART
        cuts = np.flatnonzero(is_apart_B) + 1

        def read(part: NDArray[np.int64]) -> None:
            first, last = int(rows_B[part[0]]), int(rows_B[part[-1]])
            values_RD = np.empty((last + 1 - first, out_ND.shape[1]), out_ND.dtype)
            self._rows.read_into(range(first, last + 1), values_RD)
            out_ND[positions_B[part]] = values_RD[slice_if_contiguous(rows_B[part] - first)]

        on_threads(read, np.split(order_B, cuts), self._objects)

    def not_finite(self, shard: int) -> NDArray[np.bool_]:
        """Read all that a shard holds and return which of its rows are NaN or infinite; raises as ``read_into`` does.

        Rows that fill up its last chunk count as infinite; no set refers to them.
        """
        rows = self._rows.stored_rows(shard)
        values_RD = np.empty((len(rows), self._rows.shape[1]), self._rows.dtype)
        self._rows.read_into(rows, values_RD)
        return not_finite_rows(values_RD)

    @cached_property
    def _rows(self) -> ShardReader | ZarrRows:
        return open_rows(self._objects, self.path, shard_rows=self.shard_rows)


_WINDOW_BYTES = 2**30
"""Most bytes of features that are gathered at once and kept for the next slices."""

_REREADS = 2
"""How often a shard may be read, on average, while a set is read slice by slice in its order."""


class GatheredRows:
    """The features of a set's M samples, (M, D), gathered from its sources; NaN where a sample failed.

    Where the samples' rows lie far apart, as after every file got another name, a slice would touch nearly every shard.
    Then more samples than were asked for are gathered at once, and the next slices are taken from them.
    """

    def __init__(
        self,
        sources: Sequence[RowSource],
        read_row: Callable[[], NDArray[np.int64]],
        *,
        shape: tuple[int, int],
        dtype: str,
    ) -> None:
        """``read_row`` gives the row (M,) of each sample in all ``sources`` one after the other, -1 where it failed."""
        self._sources = sources
        self._first_S = np.cumsum([0, *(source.num_rows for source in sources)])
        self._read_row = read_row
        self._dtype = np.dtype(dtype)
        self._window: tuple[range, NDArray[Any]] | None = None
        self.shape: tuple[int, ...] = shape

    @cached_property
    def _row_M(self) -> NDArray[np.int64]:
        return self._read_row()

    def __getitem__(self, samples: slice | NDArray[np.int64], /) -> NDArray[Any]:
        if not isinstance(samples, slice):
            return self._gather(samples)
        start, stop, _ = samples.indices(self.shape[0])
        if stop - start >= self._window_samples:
            return self._gather(slice(start, stop))
        window = self._window
        if window is None or start < window[0].start or stop > window[0].stop:
            there = range(start, min(start + self._window_samples, self.shape[0]))
            window = self._window = there, self._gather(slice(there.start, there.stop))
        return window[1][start - window[0].start : stop - window[0].start]

    @cached_property
    def _window_samples(self) -> int:
        """Number of samples to gather at once, so that shards are read ``_REREADS`` times at most; 1 if any will do."""
        there = self._row_M >= 0
        source_M = np.searchsorted(self._first_S, self._row_M, side="right") - 1
        shard_rows_S = np.array([source.shard_rows for source in self._sources])
        first_M = self._first_S[source_M]
        shard_M = first_M + (self._row_M - first_M) // shard_rows_S[source_M]  # shards of two sources differ
        num_shards = len(np.unique(shard_M[there]))
        most = max(1, _WINDOW_BYTES // (self.shape[1] * self._dtype.itemsize))
        window = min(source.shard_rows for source in self._sources)
        while window < min(most, self.shape[0]):
            touched = np.unique(np.arange(self.shape[0])[there] // window * (self._first_S[-1] + 1) + shard_M[there])
            if len(touched) <= _REREADS * num_shards + -(-self.shape[0] // window):
                break
            window *= 2
        return 1 if window == min(source.shard_rows for source in self._sources) else min(window, most)

    def _gather(self, samples: slice | NDArray[np.int64]) -> NDArray[Any]:
        row_B = self._row_M[samples]
        out_BD = np.empty((len(row_B), self.shape[1]), self._dtype)
        out_BD[row_B < 0] = np.nan
        source_B = np.searchsorted(self._first_S, row_B, side="right") - 1
        for number in np.unique(source_B[row_B >= 0]).tolist():
            positions = np.flatnonzero(source_B == number)
            self._sources[number].read_into(out_BD, positions, row_B[positions] - self._first_S[number])
        return out_BD
