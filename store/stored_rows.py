"""The arrays of one complete key as a FeatureSet reads them: ``open_rows`` the features, ``read_columns`` the rest."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.feature_set import Columns, RowArray
from penultimate.store.format import layout
from penultimate.store.format.arrays import default_pipeline, open_features
from penultimate.store.format.reading import read_array, read_errors
from penultimate.store.format.shard_codec import ShardCodec
from penultimate.store.format.shard_reader import ShardReader
from penultimate.store.key import FeatureKey
from penultimate.store.objects.objects import Objects

# Shapes: M samples of the ImageSet, D feature dimensions.


def open_rows(objects: Objects, key: FeatureKey, shard_rows: int) -> RowArray:
    """Open the ``features`` array of a key, (M, D); a wrong checksum or a lost shard raises an error naming the rows.

    An array of the form that we write is read by ShardReader. One of another form, which somebody made with Zarr, is
    read through Zarr, several times slower.
    """
    name = f"{key.path}/{layout.FEATURES}"
    metadata = objects.get(f"{name}/{layout.METADATA}") or b""
    if (codec := ShardCodec.of(metadata)) is None:
        return ZarrRows(objects, key, shard_rows)
    return ShardReader(objects, key.path, codec, json.loads(metadata)["shape"][0])


class ZarrRows:
    """The ``features`` array of a key, (M, D), read through Zarr."""

    def __init__(self, objects: Objects, key: FeatureKey, shard_rows: int) -> None:
        self._objects = objects
        self._key = key
        self._shard_rows = shard_rows
        # From an object store zarrs would read by itself, without our retries.
        self._array = open_features(objects, key.path, pipeline=default_pipeline() if objects.is_local else "zarr")

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (M, D)."""
        return self._array.shape

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        self._refuse_if_lost(range(start // self._shard_rows, layout.num_shards(stop, self._shard_rows)))
        with read_errors(self._objects, f"{self._key.path}/{layout.FEATURES}", slice(start, stop)):
            return np.asarray(self._array[start:stop])

    def _refuse_if_lost(self, shards: range) -> None:
        """Raise CorruptFeaturesError for an absent or empty shard, whose rows Zarr would fill with the fill value."""
        shard_of = {f"{self._key.path}/{layout.shard_object(shard)}": shard for shard in shards}
        for name in self._objects.lost(list(shard_of)):
            first = shard_of[name] * self._shard_rows
            rows = slice(first, min(first + self._shard_rows, self.shape[0]))
            with read_errors(self._objects, f"{self._key.path}/{layout.FEATURES}", rows):
                raise ValueError(f"{layout.shard_object(shard_of[name])} is missing or empty")


def read_columns(objects: Objects, key: FeatureKey, checksums: Mapping[str, str]) -> Columns:
    """Return the columns of a key; raises CorruptFeaturesError if one differs from its checksum.

    Each is checked as a whole, because Zarr would fill a chunk that is absent.
    """
    columns = {}
    for name in layout.COLUMNS:
        columns[name] = read_array(objects, f"{key.path}/{name}")
        with read_errors(objects, f"{key.path}/{name}"):
            if layout.values_checksum(columns[name]) != checksums[name]:
                raise ValueError("values differ from their checksum")
    return Columns(
        labels_M=columns[layout.LABELS],
        ids_M=columns[layout.IDS],
        split_M=layout.fixed_width(columns[layout.SPLIT]),
        failed_M=columns[layout.FAILED],
    )
