"""ShardReader: rows of a ``features`` array, read shard by shard with ShardCodec on a few threads."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

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


Part = TypeVar("Part")


def on_threads(read: Callable[[Part], None], parts: Sequence[Part], objects: Objects) -> None:
    """Call ``read`` with each part, of one shard each, on as many threads as read ``objects`` fastest."""
    threads = min(len(parts), _LOCAL_THREADS if objects.is_local else _REMOTE_THREADS)
    if threads <= 1:
        for part in parts:
            read(part)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        for _ in pool.map(read, parts):
            pass


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

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the features."""
        return np.dtype(self._codec.dtype)

    def stored_rows(self, shard: int) -> range:
        """Return the rows that a shard holds, by its size; of a lost one the first, so that reading it says so."""
        first = shard * self._codec.shard_rows
        size = self._objects.size(f"{self._path}/{layout.shard_object(shard)}")
        return range(first, min(first + max(1, self._codec.num_rows(size)), self._num_rows))

    def read_into(self, rows: range, out_BD: NDArray[Any]) -> None:
        """Read contiguous rows into ``out_BD``, which is C-contiguous and of the array's dtype."""
        first = rows.start

        def read(part: range) -> None:
            self._read(part, out_BD[part.start - first : part.stop - first])

        on_threads(read, list(self._parts(rows)), self._objects)

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
