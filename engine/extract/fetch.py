"""Fetch images in one pass: each is read once, digested, and looked up in the store before anything is decoded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

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
"""Number of images that one task reads and that are looked up together."""

_IN_FLIGHT = 8
"""Number of groups read ahead of the decoder."""

Fetched = bytes | NDArray[np.uint8] | str
"""An encoded file, pixels (H, W, 3), or the reason why neither could be read."""

IsNeeded = Callable[[NDArray[np.int64], Sequence[Fetched]], NDArray[np.bool_]]
"""A function from indices of samples and what was read of them to which of them are to be decoded, (B,)."""


class FetchedSource(ImageSource):
    """A source that reads ahead, and hands out what it has read once.

    ``needed`` yields the indices to decode; a decoder that takes from it may read exactly these, in any order.
    """

    def __init__(self, source: ImageSource, *, num_threads: int, is_needed: IsNeeded) -> None:
        """Read from ``source`` on ``num_threads`` threads; ``is_needed`` is called on the thread of ``needed``."""
        self._source = source
        self._num_threads = num_threads
        self._is_needed = is_needed
        self._fetched: dict[int, bytes | NDArray[np.uint8]] = {}

    @property
    @override
    def location(self) -> str:
        return self._source.location

    @override
    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        return self._fetched.pop(index)

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return self._source.fingerprint(index)

    def needed(self, indices: Iterable[int]) -> Iterator[int]:
        """Read each of ``indices`` and yield those that are needed, in order; raises what reading raises.

        One that cannot be read is not needed: ``is_needed`` is told the reason.
        """
        remaining = iter(indices)
        groups = iter(lambda: list(islice(remaining, _GROUP)), [])
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="fetch") as pool:
            for group, contents in prefetch_map(pool, self._fetch, groups, depth=_IN_FLIGHT):
                needed_B = self._is_needed(np.array(group, np.int64), contents)
                for index, content, needed in zip(group, contents, needed_B.tolist(), strict=True):
                    if needed and not isinstance(content, str):
                        self._fetched[index] = content
                        yield index

    def _fetch(self, group: list[int]) -> tuple[list[int], list[Fetched]]:
        return group, [self._read(index) for index in group]

    def _read(self, index: int) -> Fetched:
        try:
            return self._source.read(index)
        except PenultimateError:  # not this image's fault: the run stops
            raise
        except OSError as error:
            return reason_of(error)


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
