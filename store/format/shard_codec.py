"""ShardCodec: the bytes of one shard of ``features``, encoded from rows and decoded into rows without a copy of them.

A shard is an object of a Zarr v3 array with the codec ``sharding_indexed``: chunks of whole rows, each little-endian
values and their CRC-32C, then an index of the chunks, which has a CRC-32C of its own
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html):

    chunk 0 | CRC-32C | chunk 1 | CRC-32C | ... | offset, size of chunk 0 | offset, size of chunk 1 | ... | CRC-32C

The last chunk is filled up with the fill value; chunks behind the last row are absent, which the index says. Zarr
reads what is written here and the other way round; here it takes a third of the time, because rows go from the disk
straight to where they are wanted, and each checksum is computed while its chunk is still in the processor's cache.
"""

# Shapes: R rows of a shard, B wanted rows of it, C chunks of a shard, D feature dimensions.

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

CRC_BYTES = 4

FILL_VALUE = -np.inf
"""Value of rows that were never written. No feature is -inf throughout, and Zarr drops chunks of nothing else."""

_ABSENT = 2**64 - 1
"""Offset and size, in the index, of a chunk that was not written."""

_BLOCK_BYTES = 2**20
"""About the number of bytes read at once: their checksums are computed before they leave the processor's cache."""

_MOST_BUFFERS = 512
"""Number of buffers given to one system call, of the 1024 that Linux takes."""

_Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCodec:
    """Encode and decode the shards of one array. Damage raises ValueError, which names the rows of the shard."""

    shard_rows: int
    """Largest R; a multiple of ``chunk_rows``."""

    chunk_rows: int

    feature_dim: int

    dtype: str
    """``float32`` or ``float16``; on disk little-endian."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float16") or self.chunk_rows < 1 or self.feature_dim < 1:
            raise ValueError(f"expected chunks of float32 or float16 rows, got {self}")
        if self.shard_rows < 1 or self.shard_rows % self.chunk_rows:
            raise ValueError(f"shard_rows must be a multiple of {self.chunk_rows}, got {self.shard_rows}")

    @classmethod
    def of(cls, metadata: bytes) -> Self | None:
        """Return the codec of the array with this ``zarr.json``; None where it has another form, for Zarr to read."""
        try:
            array = json.loads(metadata)
            shard_rows, feature_dim = array["chunk_grid"]["configuration"]["chunk_shape"]
            chunk_rows = array["codecs"][0]["configuration"]["chunk_shape"][0]
            codec = cls(shard_rows=shard_rows, chunk_rows=chunk_rows, feature_dim=feature_dim, dtype=array["data_type"])
            same = all(array[name] == value for name, value in codec._metadata().items())
            return codec if same and array["shape"][1:] == [feature_dim] else None
        except (ValueError, TypeError, LookupError):
            return None

    def encode(
        self, features_RD: NDArray[Any], each_chunk: Callable[[NDArray[Any]], object] = lambda rows_BD: None
    ) -> list[memoryview]:
        """Return the object that holds these rows, 1 <= R <= ``shard_rows``, in parts, which are views of whole chunks.

        ``each_chunk`` is called with the rows of every chunk in turn, whose bytes the processor's cache then holds.
        """
        if not 1 <= len(features_RD) <= self.shard_rows or features_RD.shape[1:] != (self.feature_dim,):
            raise ValueError(
                f"expected 1 to {self.shard_rows} rows of {self.feature_dim} features, got {features_RD.shape}"
            )
        rows_RD = np.ascontiguousarray(features_RD, self._stored)
        parts: list[memoryview] = []
        for start in range(0, len(rows_RD), self.chunk_rows):
            chunk_RD = rows_RD[start : start + self.chunk_rows]
            each_chunk(chunk_RD)
            if (lacking := self.chunk_rows - len(chunk_RD)) > 0:
                chunk_RD = np.pad(chunk_RD, ((0, lacking), (0, 0)), constant_values=FILL_VALUE)
            chunk = _bytes_of(chunk_RD)
            parts += [chunk.data, memoryview(_crc(chunk).to_bytes(CRC_BYTES, "little"))]
        return [*parts, memoryview(self._index(len(parts) // 2))]

    def read_into(self, handle: int, rows: range, out_BD: NDArray[Any]) -> None:
        """Read contiguous ``rows`` of the shard in an open file into ``out_BD``: C-contiguous, of the array's dtype.

        Every chunk that holds one of the rows is read and checked as a whole, and the index is.
        """
        size = os.fstat(handle).st_size
        tail = np.empty(min(self._index_bytes, size), np.uint8)
        _read_file(handle, [tail], size - len(tail))
        self._fill(partial(_read_file, handle), self._chunks(tail, size), rows, out_BD)

    def decode(self, content: bytes | memoryview, rows: range, out_BD: NDArray[Any]) -> None:
        """Decode contiguous ``rows`` of the shard with this content into ``out_BD``, checked as ``read_into`` does."""
        data = np.frombuffer(content, np.uint8)
        tail = data[-min(self._index_bytes, len(data)) :]
        self._fill(partial(_copy, data), self._chunks(tail, len(data)), rows, out_BD)

    def size(self, num_rows: int) -> int:
        """Return the number of bytes of a shard with so many rows."""
        return -(-num_rows // self.chunk_rows) * self._chunk_bytes + self._index_bytes

    def num_rows(self, size: int) -> int:
        """Return how many rows an object of so many bytes holds, those included that fill up its last chunk."""
        return max(0, size - self._index_bytes) // self._chunk_bytes * self.chunk_rows

    def _fill(
        self,
        read: Callable[[Sequence[_Bytes], int], None],
        offsets_C: Sequence[int],
        rows: range,
        out_BD: NDArray[Any],
    ) -> None:
        """Fill ``out_BD`` through ``read``, which fills buffers from an offset on, a block of chunks at a time."""
        if out_BD.shape != (len(rows), self.feature_dim) or out_BD.dtype != self._stored or rows.step != 1:
            raise ValueError(f"expected {len(rows)} rows of {self.feature_dim} {self.dtype}, got {out_BD.shape}")
        if not rows:
            return
        out = _bytes_of(out_BD)
        unwanted = np.empty((2, self._chunk_bytes), np.uint8)
        chunks = range(rows.start // self.chunk_rows, -(-rows.stop // self.chunk_rows))
        for block in self._blocks(chunks, offsets_C):
            parts = [self._destinations(chunk, rows, out, unwanted) for chunk in block]
            crcs = np.empty((len(block), CRC_BYTES), np.uint8)
            buffers = [buffer for part, crc in zip(parts, crcs, strict=True) for buffer in (*part, crc)]
            read(buffers, offsets_C[block[0]])
            for chunk, part, stored in zip(block, parts, crcs.view("<u4")[:, 0].tolist(), strict=True):
                if _crc(*part) != stored:
                    raise ValueError(f"{self._rows(chunk)} differ from their CRC-32C")

    def _destinations(self, chunk: int, rows: range, out: _Bytes, unwanted: _Bytes) -> list[_Bytes]:
        """Return where the bytes of one chunk go: to ``out``, or where its first or last rows are not wanted, aside."""
        first = chunk * self.chunk_rows
        start, stop = max(first, rows.start), min(first + self.chunk_rows, rows.stop)
        before, after = (start - first) * self._row_bytes, (first + self.chunk_rows - stop) * self._row_bytes
        wanted = out[(start - rows.start) * self._row_bytes : (stop - rows.start) * self._row_bytes]
        return [part for part in (unwanted[0, :before], wanted, unwanted[1, :after]) if len(part)]

    def _blocks(self, chunks: range, offsets_C: Sequence[int]) -> Iterator[range]:
        """Yield runs of chunks that lie one behind the other in the object; raises ValueError at an absent one."""
        most = max(1, min(_BLOCK_BYTES // self._chunk_bytes, _MOST_BUFFERS // 4))
        first = chunks.start
        for chunk in chunks:
            if offsets_C[chunk] == _ABSENT:
                raise ValueError(f"{self._rows(chunk)} are absent")
            next_to = offsets_C[first] + (chunk - first) * self._chunk_bytes
            if chunk - first == most or offsets_C[chunk] != next_to:
                yield range(first, chunk)
                first = chunk
        yield range(first, chunks.stop)

    def _chunks(self, tail: _Bytes, size: int) -> list[int]:
        """Return the offset of each chunk from the index, the last bytes of an object of ``size`` bytes."""
        if len(tail) < self._index_bytes:
            raise ValueError(f"the shard has {size} bytes, fewer than its index")
        index = tail[:-CRC_BYTES]
        if _crc(index) != int(tail[-CRC_BYTES:].view("<u4")[0]):
            raise ValueError("the shard's index differs from its CRC-32C")
        offsets_C, sizes_C = index.view("<u8").reshape(-1, 2).T
        end = size - self._index_bytes
        there = (offsets_C <= max(0, end - self._chunk_bytes)) & (sizes_C == self._chunk_bytes) & (end > 0)
        absent = (offsets_C == _ABSENT) & (sizes_C == _ABSENT)
        if not (there | absent).all():
            raise ValueError(f"the shard's index does not fit its size of {size} bytes; it was cut or extended")
        return [int(offset) for offset in offsets_C]

    def _index(self, num_chunks: int) -> bytes:
        index_C2 = np.full((self.shard_rows // self.chunk_rows, 2), _ABSENT, "<u8")
        index_C2[:num_chunks, 0] = np.arange(num_chunks) * self._chunk_bytes
        index_C2[:num_chunks, 1] = self._chunk_bytes
        return index_C2.tobytes() + _crc(_bytes_of(index_C2)).to_bytes(CRC_BYTES, "little")

    def _metadata(self) -> dict[str, Any]:
        """Return all that decides, in an array's ``zarr.json``, about the bytes of its shards."""
        little = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "data_type": self.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.shard_rows, self.feature_dim]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": [self.chunk_rows, self.feature_dim],
                        "codecs": little,
                        "index_codecs": little,
                        "index_location": "end",
                    },
                }
            ],
            "storage_transformers": [],
        }

    def _rows(self, chunk: int) -> str:
        return f"rows {chunk * self.chunk_rows} to {(chunk + 1) * self.chunk_rows} of the shard"

    @property
    def _stored(self) -> np.dtype[Any]:
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def _row_bytes(self) -> int:
        return self.feature_dim * self._stored.itemsize

    @property
    def _chunk_bytes(self) -> int:
        return self.chunk_rows * self._row_bytes + CRC_BYTES

    @property
    def _index_bytes(self) -> int:
        return self.shard_rows // self.chunk_rows * 16 + CRC_BYTES


def _bytes_of(rows_RD: NDArray[Any]) -> _Bytes:
    """Return the bytes of C-contiguous rows as a flat view; raises ValueError, by NumPy, for others."""
    return rows_RD.reshape(-1, copy=False).view(np.uint8)


def _crc(*parts: _Bytes) -> int:
    """Return the CRC-32C of bytes that lie in several places."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return int(crc)


def _read_file(handle: int, buffers: Sequence[_Bytes], offset: int) -> None:
    """Fill the buffers from a file, from ``offset`` on; raises ValueError where it ends before."""
    left = [buffer.data for buffer in buffers if len(buffer)]
    while left:
        if (count := os.preadv(handle, left, offset)) == 0:
            raise ValueError("the shard ends early; it was cut")
        offset += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if left:
            left[0] = left[0][count:]


def _copy(data: _Bytes, buffers: Sequence[_Bytes], offset: int) -> None:
    """Fill the buffers from ``data``, from ``offset`` on, which holds as much: the index was compared with its size."""
    for buffer in buffers:
        buffer[:] = data[offset : offset + len(buffer)]
        offset += len(buffer)
