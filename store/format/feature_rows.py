"""Open a ``features`` array for reading: by ShardReader where it has the form that we write, else through Zarr."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format import layout
from penultimate.store.format.arrays import default_pipeline, open_features
from penultimate.store.format.reading import read_errors
from penultimate.store.format.shard_codec import ShardCodec
from penultimate.store.format.shard_reader import ShardReader
from penultimate.store.objects.objects import Objects

# Shapes: R rows of the array, B of them that are wanted, D feature dimensions.


def open_rows(objects: Objects, path: str, *, shard_rows: int) -> "ShardReader | ZarrRows":
    """Open the ``features`` array, (R, D), of the folder at ``path``.

    An array of another form than ours, which somebody made with Zarr, is read through Zarr, several times slower.
    """
    metadata = objects.get(f"{path}/{layout.FEATURES}/{layout.METADATA}") or b""
    if (codec := ShardCodec.of(metadata)) is None:
        return ZarrRows(objects, path, shard_rows=shard_rows)
    return ShardReader(objects, path, codec, json.loads(metadata)["shape"][0])


class ZarrRows:
    """The ``features`` array of the folder at ``path``, read through Zarr."""

    def __init__(self, objects: Objects, path: str, *, shard_rows: int) -> None:
        self._objects = objects
        self._path = path
        self._shard_rows = shard_rows
        # From an object store zarrs would read by itself, without our retries.
        self._array = open_features(objects, path, pipeline=default_pipeline() if objects.is_local else "zarr")

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (R, D)."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the features."""
        return np.dtype(self._array.dtype)

    def stored_rows(self, shard: int) -> range:
        """Return the rows of a shard."""
        return range(shard * self._shard_rows, min((shard + 1) * self._shard_rows, self.shape[0]))

    def read_into(self, rows: range, out_BD: NDArray[Any]) -> None:
        """Read contiguous rows into ``out_BD``; raises CorruptFeaturesError as ShardReader does."""
        self._refuse_if_lost(range(rows.start // self._shard_rows, layout.num_shards(rows.stop, self._shard_rows)))
        with read_errors(self._objects, f"{self._path}/{layout.FEATURES}", slice(rows.start, rows.stop)):
            out_BD[:] = self._array[rows.start : rows.stop]

    def _refuse_if_lost(self, shards: range) -> None:
        """Raise CorruptFeaturesError for an absent or empty shard, whose rows Zarr would fill with the fill value."""
        shard_of = {f"{self._path}/{layout.shard_object(shard)}": shard for shard in shards}
        for name in self._objects.lost(list(shard_of)):
            first = shard_of[name] * self._shard_rows
            rows = slice(first, min(first + self._shard_rows, self.shape[0]))
            with read_errors(self._objects, f"{self._path}/{layout.FEATURES}", rows):
                raise ValueError(f"{layout.shard_object(shard_of[name])} is missing or empty")
