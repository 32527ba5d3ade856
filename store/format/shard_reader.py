"""ShardReader: rows of a ``features`` array, read shard by shard with ShardCodec on a few threads."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format import layout
from penultimate.store.format.reading import read_errors
from penultimate.store.format.shard_codec import ShardCodec
from penultimate.store.objects.objects import Objects

# Shapes: N rows of the array, B of them that are wanted, D feature dimensions.

_LOCAL_THREADS = 2
"""Shards of a folder that are read at once: one is copied out of the page cache while another is checked. Of 252 MB,
one thread took 97 ms, two took 74, three 74 and four 80 (2 cores; numpy.load took 70)."""

_REMOTE_THREADS = 8
"""Shards of an object store that are fetched at once; each is one request, and in memory until it is decoded."""


class ShardReader:
    """The ``features`` of the key at ``path``, (N, D), of an array that has the form of ShardCodec.

    Every chunk's CRC-32C and the index are checked. A changed byte, or a shard that is cut, absent or empty, raises
    CorruptFeaturesError, which names the rows.
    """

    def __init__(self, objects: Objects, path: str, codec: ShardCodec, num_rows: int) -> None:
        self._objects = objects
        self._path = path
        self._codec = codec
        self._num_rows = num_rows

    @property
    def shape(self) -> tuple[int, int]:
        """Return (N, D)."""
        return self._num_rows, self._codec.feature_dim

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, step = rows.indices(self._num_rows)
        assert step == 1, "rows are read by plain slices"
        out_BD = np.empty((max(0, stop - start), self._codec.feature_dim), self._codec.dtype)
        self.read_into(range(start, max(start, stop)), out_BD)
        return out_BD

    def read_into(self, rows: range, out_BD: NDArray[Any]) -> None:
        """Read contiguous rows into ``out_BD``, which is C-contiguous and of the array's dtype."""
        parts = list(self._parts(rows))
        threads = min(len(parts), _LOCAL_THREADS if self._objects.is_local else _REMOTE_THREADS)
        if threads <= 1:
            for part in parts:
                self._read(part, out_BD[part.start - rows.start : part.stop - rows.start])
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
            outs = (out_BD[part.start - rows.start : part.stop - rows.start] for part in parts)
            for _ in pool.map(self._read, parts, outs):
                pass

    def _parts(self, rows: range) -> Iterator[range]:
        """Yield the rows of each shard."""
        size = self._codec.shard_rows
        for shard in range(rows.start // size, -(-rows.stop // size) if rows else 0):
            yield range(max(rows.start, shard * size), min(rows.stop, (shard + 1) * size))

    def _read(self, rows: range, out_BD: NDArray[Any]) -> None:
        """Read rows of one shard."""
        shard, first = divmod(rows.start, self._codec.shard_rows)
        name = layout.shard_object(shard)
        inside = range(first, first + len(rows))
        with read_errors(self._objects, f"{self._path}/{layout.FEATURES}", slice(rows.start, rows.stop)):
            try:
                self._read_object(f"{self._path}/{name}", inside, out_BD)
            except FileNotFoundError as error:
                raise ValueError(f"{name} is missing or empty") from error
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def _read_object(self, name: str, rows: range, out_BD: NDArray[Any]) -> None:
        if not self._objects.is_local:
            if (content := self._objects.get(name)) is None:
                raise FileNotFoundError(name)
            self._codec.decode(content, rows, out_BD)
            return
        handle = os.open(self._objects.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._codec.read_into(handle, rows, out_BD)
        finally:
            os.close(handle)
