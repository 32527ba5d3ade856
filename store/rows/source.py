"""RowSource: an array of rows that sets refer to, read with every checksum verified."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format import layout
from penultimate.store.format.arrays import default_pipeline, open_features
from penultimate.store.format.documents import PLAN
from penultimate.store.format.reading import read_errors
from penultimate.store.objects.objects import Objects

# Shapes: R rows of a source, B rows wanted, D feature dimensions.


class RowSource:
    """The ``features`` array, (R, D), of the folder at ``path``; opened when it is first read."""

    def __init__(self, objects: Objects, path: str, *, num_rows: int, shard_rows: int) -> None:
        self._objects = objects
        self._array: Any = None
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

    def read(self, rows: slice) -> NDArray[Any]:
        """Return some consecutive rows, (B, D).

        A wrong checksum or a lost shard raises CorruptFeaturesError, which names the rows.
        """
        start, stop, _ = rows.indices(self.num_rows)
        self._refuse_if_lost(range(start // self.shard_rows, layout.num_shards(stop, self.shard_rows)))
        if self._array is None:
            # From an object store zarrs would read by itself, without our retries.
            pipeline = default_pipeline() if self._objects.is_local else "zarr"
            self._array = open_features(self._objects, self.path, pipeline=pipeline)
        with read_errors(self._objects, f"{self.path}/{layout.FEATURES}", slice(start, stop)):
            return np.asarray(self._array[start:stop])

    def read_into(self, out_ND: NDArray[Any], positions_B: NDArray[np.int64], rows_B: NDArray[np.int64]) -> None:
        """Write row ``rows_B[i]`` into ``out_ND[positions_B[i]]``; each shard is read once, from first to last row."""
        order_B = np.argsort(rows_B, kind="stable")
        sorted_B = rows_B[order_B]
        cuts = np.flatnonzero(np.diff(sorted_B // self.shard_rows)) + 1
        for part in np.split(order_B, cuts):
            first, last = int(rows_B[part[0]]), int(rows_B[part[-1]])
            values_RD = self.read(slice(first, last + 1))
            out_ND[_slice_if_contiguous(positions_B[part])] = values_RD[_slice_if_contiguous(rows_B[part] - first)]

    def not_finite(self, shard: int) -> NDArray[np.bool_]:
        """Read a whole shard and return which of its rows hold NaN or infinity; raises CorruptFeaturesError."""
        first = shard * self.shard_rows
        not_finite_B: NDArray[np.bool_] = ~np.isfinite(self.read(slice(first, first + self.shard_rows))).all(axis=1)
        return not_finite_B

    def _refuse_if_lost(self, shards: range) -> None:
        """Raise CorruptFeaturesError for an absent or empty shard, whose rows Zarr would fill with the fill value."""
        shard_of = {f"{self.path}/{layout.shard_object(shard)}": shard for shard in shards}
        for name in self._objects.lost(list(shard_of)):
            first = shard_of[name] * self.shard_rows
            rows = slice(first, min(first + self.shard_rows, self.num_rows))
            with read_errors(self._objects, f"{self.path}/{layout.FEATURES}", rows):
                raise ValueError(f"{layout.shard_object(shard_of[name])} is missing or empty")


class GatheredRows:
    """The features of a set's M samples, (M, D), gathered from its sources; NaN where a sample failed."""

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
        self._dtype = dtype
        self.shape: tuple[int, ...] = shape

    @cached_property
    def _row_M(self) -> NDArray[np.int64]:
        return self._read_row()

    def __getitem__(self, samples: slice, /) -> NDArray[Any]:
        row_B = self._row_M[samples]
        out_BD = np.empty((len(row_B), self.shape[1]), self._dtype)
        out_BD[row_B < 0] = np.nan
        source_B = np.searchsorted(self._first_S, row_B, side="right") - 1
        for number in np.unique(source_B[row_B >= 0]).tolist():
            positions = np.flatnonzero(source_B == number)
            self._sources[number].read_into(out_BD, positions, row_B[positions] - self._first_S[number])
        return out_BD


def _slice_if_contiguous(indices: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return an equivalent slice if the indices increase one by one: then indexing copies nothing."""
    if len(indices) and indices[-1] - indices[0] == len(indices) - 1 and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices
