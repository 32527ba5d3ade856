"""The five arrays of a key as Zarr arrays: shapes, chunks, codecs, dimension names and what runs the codecs."""

from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from penultimate.store import layout
from penultimate.store.objects import LocalObjects, storage_errors
from penultimate.store.plan import Plan

# Shapes: M samples of the ImageSet.

CodecPipeline = Literal["zarr", "zarrs"]

_PIPELINES: dict[CodecPipeline, str] = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def default_pipeline() -> CodecPipeline:
    """For reading: ``zarrs`` where it is installed (the extra ``fast``), which takes a fraction of the time.

    Figures: benchmarks/results/store_io_202611.md. Writing is left to Zarr's own: zarrs makes the same bytes, hardly
    faster, but where the disk is full it raises a RuntimeError that does not say so to a program.
    """
    return "zarrs" if find_spec("zarrs") else "zarr"


def open_features(objects: LocalObjects, path: str, *, pipeline: CodecPipeline, mode: str = "r") -> "zarr.Array[Any]":
    """``features`` of the key at ``path``; its codecs run in ``pipeline``.

    An array keeps the pipeline it was opened with, so that Zarr's configuration is as before when this returns.
    """
    with zarr.config.set({"codec_pipeline.path": _PIPELINES[pipeline]}):
        return objects.open_array(f"{path}/{layout.FEATURES}", mode=mode)


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
