"""The five arrays of a key as Zarr arrays: shapes, chunks, codecs and dimension names."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from penultimate.store import layout
from penultimate.store.objects import LocalObjects, storage_errors
from penultimate.store.plan import Plan

# Shapes: M samples of the ImageSet.


def create_features(objects: LocalObjects, plan: Plan) -> None:
    """``features`` without values yet: every shard is one object of whole chunks."""
    objects.create_array(
        f"{plan.key.path}/{layout.FEATURES}",
        shape=(plan.num_rows, plan.feature_dim),
        dtype=plan.key.dtype,
        shards=(plan.shard_rows, plan.feature_dim),
        chunks=(plan.chunk_rows, plan.feature_dim),
        compressors=[Crc32cCodec()],
        # Zarr drops a shard that holds nothing but the fill value. NaN is a row that failed and 0 a dead unit, so
        # either would lose a shard; no feature is -inf throughout.
        fill_value=-np.inf,
        dimension_names=layout.DIMENSIONS[layout.FEATURES],
    )


def write_column(objects: LocalObjects, path: str, name: str, values_M: NDArray[Any]) -> None:
    """One of the columns of the key at ``path``, on the disk when this returns."""
    array = objects.create_array(
        f"{path}/{name}",
        shape=values_M.shape,
        dtype="string" if values_M.dtype.kind == "T" else values_M.dtype,
        chunks=(min(layout.COLUMN_ROWS, len(values_M)), *values_M.shape[1:]),
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        dimension_names=layout.DIMENSIONS[name][: values_M.ndim],
    )
    with storage_errors(objects.root / path / name):
        array[:] = values_M
    objects.make_durable(f"{path}/{name}")
