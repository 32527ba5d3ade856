"""Read the columns of a complete set, and gather its features, as a FeatureSet has them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.feature_set import Columns, RowArray
from penultimate.store.format import layout
from penultimate.store.format.reading import read_array, read_errors
from penultimate.store.key import FeatureKey
from penultimate.store.objects.objects import Objects
from penultimate.store.rows.source import GatheredRows, RowSource


def read_columns(objects: Objects, key: FeatureKey, checksums: Mapping[str, str]) -> Columns:
    """Return the columns of a key; raises CorruptFeaturesError if one differs from its checksum."""
    columns = {name: read_column(objects, key.path, name, checksums) for name in layout.FORMAT1_COLUMNS}
    return Columns(
        labels_M=columns[layout.LABELS],
        ids_M=columns[layout.IDS],
        split_M=layout.fixed_width(columns[layout.SPLIT]),
        failed_M=columns[layout.FAILED],
    )


def read_column(objects: Objects, path: str, name: str, checksums: Mapping[str, str]) -> NDArray[Any]:
    """Return one column of the set at ``path``, checked as a whole, because Zarr would fill a chunk that is absent."""
    values = read_array(objects, f"{path}/{name}")
    with read_errors(objects, f"{path}/{name}"):
        if layout.values_checksum(values) != checksums[name]:
            raise ValueError("values differ from their checksum")
    return values


def read_contents(objects: Objects, key: FeatureKey, content: Mapping[str, Any]) -> NDArray[np.uint64] | None:
    """Return the content digest of every sample of a key, (M, 3), given what its group says; None of format 1."""
    if content["format"] == 1:
        return None
    return read_column(objects, key.path, layout.CONTENT, content["checksums"])


def gathered_rows(objects: Objects, key: FeatureKey, content: Mapping[str, Any]) -> RowArray:
    """Return the features of a set of either format, (M, D), given what its group says; they are read when sliced."""
    shape = content["num_rows"], content["feature_dim"]
    if content["format"] == 1:
        sources = [RowSource.of(objects, {**content, "path": key.path})]
        return GatheredRows(sources, partial(np.arange, shape[0]), shape=shape, dtype=key.dtype)
    sources = [RowSource.of(objects, about) for about in content["sources"]]
    read_row = partial(read_column, objects, key.path, layout.ROW, content["checksums"])
    return GatheredRows(sources, read_row, shape=shape, dtype=key.dtype)
