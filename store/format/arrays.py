"""Encode and open the Zarr arrays of a store: shapes, chunks, codecs, dimension names and codec pipeline.

Columns are encoded in memory and then put as whole objects, so that every write is atomic in the same way; ShardCodec
encodes the shards of ``features``, of which Zarr writes the metadata here.
"""

from importlib.util import find_spec
from typing import Any, Literal

import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import collect_aiterator, sync
from zarr.storage import MemoryStore

from penultimate.store.format import layout
from penultimate.store.format.reading import open_array
from penultimate.store.format.shard_codec import FILL_VALUE, ShardCodec
from penultimate.store.objects.objects import Objects

# Shapes: M samples of the ImageSet.

CodecPipeline = Literal["zarr", "zarrs"]

_PIPELINES: dict[CodecPipeline, str] = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def default_pipeline() -> CodecPipeline:
    """Return the pipeline for arrays that ShardCodec does not read: ``zarrs`` where installed (extra ``fast``)."""
    return "zarrs" if find_spec("zarrs") else "zarr"


def open_features(objects: Objects, path: str, *, pipeline: CodecPipeline) -> "zarr.Array[Any]":
    """Open ``features`` of the key at ``path`` for reading through Zarr, with codecs run by ``pipeline``.

    The array keeps its pipeline; Zarr's configuration is restored before this returns.
    """
    with zarr.config.set({"codec_pipeline.path": _PIPELINES[pipeline]}):
        return open_array(objects, f"{path}/{layout.FEATURES}")


def features_metadata(num_rows: int, codec: ShardCodec) -> bytes:
    """Return the ``zarr.json`` of ``features``, an array whose shards ``codec`` encodes."""
    with zarr.config.set({"codec_pipeline.path": _PIPELINES["zarr"]}):
        _, draft = array_in_memory(
            shape=(num_rows, codec.feature_dim),
            dtype=codec.dtype,
            # Every shard is one object that holds whole chunks.
            shards=(codec.shard_rows, codec.feature_dim),
            chunks=(codec.chunk_rows, codec.feature_dim),
            compressors=[Crc32cCodec()],
            # Zarr drops a shard that holds nothing but the fill value. NaN is a row that failed and 0 a dead unit, so
            # either would lose a shard that somebody writes through Zarr; no feature is -inf throughout.
            fill_value=FILL_VALUE,
            dimension_names=layout.DIMENSIONS[layout.FEATURES],
        )
    return contents(draft, layout.METADATA)[layout.METADATA]


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
