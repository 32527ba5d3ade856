"""Fetch images in one pass: each is read once, digested, and looked up in the store before anything is decoded."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from penultimate.engine.images.decode.pillow import reason_of
from penultimate.engine.images.digest_cache import FileFingerprint
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.store.errors import PenultimateError

# Shapes: N samples of a set, B of a group.

_GROUP = 8
"""Number of images that one task reads where reading keeps a core busy, and that are begun before one was read."""

_LOOK_UP = 32
"""Largest number of images that are looked up together: each look-up takes about as long as reading five small files.

Where reads wait for a server they are ``_GROUP``, so that the decoder has something to do early."""

_IN_FLIGHT = 64
"""Smallest number of images read ahead of the decoder."""

_MOST_BYTES = 256 << 20
"""Number of bytes read ahead of the decoder from which on fewer images are."""

Fetched = bytes | NDArray[np.uint8] | str
"""An encoded file, pixels (H, W, 3), or the reason why neither could be read."""

IsNeeded = Callable[[NDArray[np.int64], Sequence[Fetched]], NDArray[np.bool_]]
"""A function from indices of samples and what was read of them to which of them are to be decoded, (B,)."""

_Item = TypeVar("_Item")


class FetchedSource(ImageSource):
    """A source that reads ahead, and hands out what it has read once.

    ``needed`` yields the indices to decode; a decoder that takes from it may read exactly these, in any order. As many
    reads are in flight as the source wants, ``reads_at_once``, unless the images are so large that they would fill the
    memory.
    """

    def __init__(self, source: ImageSource, *, num_threads: int, is_needed: IsNeeded) -> None:
        """Read from ``source`` on ``num_threads`` threads, or as many as it has reads at once if that is more.

        ``is_needed`` is called on the thread of ``needed``.
        """
        self._source = source
        self._num_threads = max(num_threads, source.reads_at_once)
        # One image a task where it waits for a server, or those behind it in its task would wait as well.
        self._per_task, self._looked_up = (1, _GROUP) if source.reads_at_once > 1 else (_GROUP, _LOOK_UP)
        self._is_needed = is_needed
        self._fetched: dict[int, bytes | NDArray[np.uint8]] = {}
        self._ahead = _BytesAhead(_MOST_BYTES)

    @property
    @override
    def location(self) -> str:
        return self._source.location

    @property
    @override
    def reads_at_once(self) -> int:
        return self._source.reads_at_once

    @override
    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        content = self._fetched.pop(index)
        self._ahead.release(content)
        return content

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return self._source.fingerprint(index)

    def needed(self, indices: Iterable[int]) -> Iterator[int]:
        """Read each of ``indices`` and yield those that are needed, in order; raises what reading raises.

        One that cannot be read is not needed: ``is_needed`` is told the reason.
        """
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="fetch")
        try:
            for group in self._lookups(self._in_order(pool, indices)):
                samples_B, contents = np.array([index for index, _ in group], np.int64), [read for _, read in group]
                for (index, content), needed in zip(group, self._is_needed(samples_B, contents).tolist(), strict=True):
                    if needed and not isinstance(content, str):
                        self._fetched[index] = content
                        yield index
                    else:
                        self._ahead.release(content)
        finally:
            pool.shutdown(cancel_futures=True)  # those that have not begun

    def _lookups(self, read: Iterable[tuple[int, Fetched]]) -> Iterator[list[tuple[int, Fetched]]]:
        """Yield images that are looked up together: fewer where they are so large that they would fill the memory."""
        group: list[tuple[int, Fetched]] = []
        num_bytes = 0
        for index, content in read:
            group.append((index, content))
            num_bytes += _num_bytes(content)
            if len(group) == self._looked_up or num_bytes >= _MOST_BYTES // 8:
                yield group
                group, num_bytes = [], 0
        if group:
            yield group

    def _in_order(self, pool: ThreadPoolExecutor, indices: Iterable[int]) -> Iterator[tuple[int, Fetched]]:
        """Read ``indices`` on the threads of ``pool``; yield each with what was read."""
        for read in prefetch_map(
            pool,
            lambda task: [(index, self._read(index)) for index in task],
            _groups(map(self._ahead.begin, indices), self._per_task),
            # Twice as many as threads, so that all have something to do while the next in order is waited for.
            depth=max(_IN_FLIGHT, 2 * self._source.reads_at_once) // self._per_task,
            has_room=self._ahead.has_room,
        ):
            yield from read

    def _read(self, index: int) -> Fetched:
        try:
            content: Fetched = self._source.read(index)
        except PenultimateError:  # not this image's fault: the run stops
            raise
        except OSError as error:
            content = reason_of(error)
        self._ahead.add(content)
        return content


class _BytesAhead:
    """Counts what is read ahead, so that there is never much more of it in memory than ``most`` bytes.

    The size of an image is not known before it was read: those that are being read count as the mean so far.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = self._total = 0
        self._num_read = self._num_begun = 0
        self._lock = threading.Lock()

    def begin(self, index: int) -> int:
        """Count one more image that is going to be read; returns ``index``."""
        self._num_begun += 1
        return index

    def add(self, content: Fetched) -> None:
        """Count an image that was read, and is held until ``release``."""
        with self._lock:
            self._num_read += 1
            self._held += _num_bytes(content)
            self._total += _num_bytes(content)

    def release(self, content: Fetched) -> None:
        """Count an image that was handed on."""
        with self._lock:
            self._held -= _num_bytes(content)

    def has_room(self) -> bool:
        """Return whether one more image may be read; before the first was, only a few."""
        with self._lock:
            if not self._num_read:
                return self._num_begun < _GROUP
            expected = (self._num_begun - self._num_read + 1) * self._total / self._num_read
            return self._held + expected <= self._most


def _num_bytes(content: Fetched) -> int:
    return content.nbytes if isinstance(content, np.ndarray) else len(content) if isinstance(content, bytes) else 0


def _groups(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield items in lists of ``size``, the last one perhaps shorter."""
    remaining = iter(items)
    return iter(lambda: list(islice(remaining, size)), [])


class KeptSource(ImageSource):
    """A source that keeps what it read of some samples, so that a check and the extraction after it fetch them once."""

    def __init__(self, source: ImageSource, indices: Iterable[int]) -> None:
        """Keep the samples ``indices`` of ``source`` from their first read on."""
        self._source = source
        self._kept: dict[int, bytes | NDArray[np.uint8] | None] = dict.fromkeys(indices)

    @property
    @override
    def location(self) -> str:
        return self._source.location

    @property
    @override
    def reads_at_once(self) -> int:
        return self._source.reads_at_once

    @override
    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        if index not in self._kept:
            return self._source.read(index)
        if (content := self._kept[index]) is None:
            content = self._kept[index] = self._source.read(index)
        return content

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return self._source.fingerprint(index)
