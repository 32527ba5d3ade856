"""Encode and open the Zarr arrays of a store: shapes, chunks, codecs, dimension names and codec pipeline.

Arrays are encoded in memory and then put as whole objects, so that every write is atomic in the same way.
"""

from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import collect_aiterator, sync
from zarr.storage import MemoryStore

from penultimate.store.format import layout
from penultimate.store.format.reading import open_array
from penultimate.store.objects.objects import Objects
from penultimate.store.plan import Plan

# Shapes: M samples of the ImageSet.

CodecPipeline = Literal["zarr", "zarrs"]

_PIPELINES: dict[CodecPipeline, str] = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def default_pipeline() -> CodecPipeline:
    """Return the pipeline for reading: ``zarrs`` where installed (extra ``fast``), which is several times faster.

    Measured in benchmarks/results/store_io_202611.md. Writing uses Zarr's own pipeline: zarrs makes the same bytes
    hardly faster, and reports a full disk as a RuntimeError that programs cannot recognise.
    """
    return "zarrs" if find_spec("zarrs") else "zarr"


def open_features(objects: Objects, path: str, *, pipeline: CodecPipeline) -> "zarr.Array[Any]":
    """Open ``features`` of the key at ``path`` for reading, with codecs run by ``pipeline``.

    The array keeps its pipeline; Zarr's configuration is restored before this returns.
    """
    with zarr.config.set({"codec_pipeline.path": _PIPELINES[pipeline]}):
        return open_array(objects, f"{path}/{layout.FEATURES}")


class ShardEncoder:
    """Encode the rows of a shard as the bytes of its object, by way of an array in memory."""

    def __init__(self, plan: Plan) -> None:
        self._shard_rows = plan.shard_rows
        with zarr.config.set({"codec_pipeline.path": _PIPELINES["zarr"]}):
            self._array, self._draft = array_in_memory(
                shape=(plan.num_samples, plan.feature_dim),
                dtype=plan.embedding.dtype,
                # Every shard is one object that holds whole chunks.
                shards=(plan.shard_rows, plan.feature_dim),
                chunks=(plan.chunk_rows, plan.feature_dim),
                compressors=[Crc32cCodec()],
                # Zarr drops a shard that holds nothing but the fill value. NaN is what a network may give, and 0 a
                # dead unit, so either would lose a shard; no feature is -inf throughout.
                fill_value=-np.inf,
                dimension_names=layout.DIMENSIONS[layout.FEATURES],
            )

    @property
    def metadata(self) -> bytes:
        """Return the array's ``zarr.json``."""
        return contents(self._draft, layout.METADATA)[layout.METADATA]

    def encode(self, shard: int, features_RD: NDArray[Any]) -> memoryview:
        """Return the object of a shard that holds ``features_RD`` from its first row on, without copying it."""
        first = shard * self._shard_rows
        self._array[first : first + len(features_RD)] = features_RD
        (name,) = collect_aiterator(self._draft.list_prefix("c/"))
        buffer = sync(self._draft.get(name, default_buffer_prototype()))
        assert buffer is not None, "it was just written"
        sync(self._draft.delete(name))
        return np.asarray(buffer.as_numpy_array()).data


def column_objects(name: str, values_M: NDArray[Any]) -> dict[str, bytes]:
    """Return the objects of a column, its metadata included, by name below the column."""
    array, draft = array_in_memory(
        shape=values_M.shape,
        dtype="string" if values_M.dtype.kind == "T" else values_M.dtype,
        chunks=(min(layout.COLUMN_ROWS, len(values_M)), *values_M.shape[1:]),
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        dimension_names=layout.DIMENSIONS[name][: values_M.ndim],
    )
    array[:] = values_M
    return contents(draft, "")


def array_in_memory(**options: Any) -> tuple["zarr.Array[Any]", MemoryStore]:
    """Create an array in memory; returns it and the store that holds its objects by name."""
    draft = MemoryStore()
    return zarr.create_array(draft, config={"write_empty_chunks": True}, **options), draft


def contents(draft: MemoryStore, prefix: str) -> dict[str, bytes]:
    """Return the content, by name, of the objects in ``draft`` whose names begin with ``prefix``."""
    found = {}
    for name in sorted(collect_aiterator(draft.list_prefix(prefix))):
        buffer = sync(draft.get(name, default_buffer_prototype()))
        assert buffer is not None, "it was listed"
        found[name] = buffer.to_bytes()
    return found
