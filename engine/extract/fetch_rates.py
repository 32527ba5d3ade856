"""Measure how fast images come from a server, and whether connections or the network limit that.

With few connections each request takes as long as it would alone, and twice as many connections fetch twice as much.
Once the network, or the server, is full, requests wait for each other and take longer instead.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from penultimate.engine.extract.fetch import Fetched, FetchedSource
from penultimate.engine.images.digest_cache import FileFingerprint
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.images.subset import sample_rows
from penultimate.store.errors import PenultimateError

# Shapes: B images of a group.

_ALONE = 8
"""Number of requests that are made one after the other, to know what one takes alone."""

_CROWDED = 1.5
"""Ratio of the time of a request among others to that of one alone from which on they wait for each other."""

_BUSY = 0.9
"""Number of cores from which on one Python process counts as busy, since its threads run one at a time."""

_KEPT_BYTES = 256 << 20
"""Number of bytes of images that are kept in memory to be decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchRates:
    """Rates of fetching images from a server, with one request each; those that a spool has come from the disk."""

    images: float
    """Images, and so requests, a second."""

    megabytes: float
    """MB (10^6 bytes) a second."""

    request_ms: float
    """Median time of a request among those that are made at the same time, in ms."""

    request_ms_alone: float
    """Median time of a request of one connection, in ms."""

    busy_cores: float
    """Number of cores that this process kept busy meanwhile."""

    connections: int

    @property
    def limit(self) -> str:
        """What limits fetching: ``connections``, the ``network`` or the server, or the ``cores`` of this process."""
        if self.request_ms <= _CROWDED * self.request_ms_alone:
            return "connections"
        return "cores" if self.busy_cores > _BUSY else "network"

    @classmethod
    def median(cls, rates: "Sequence[FetchRates]") -> Self:
        """Return the median of each value."""
        return cls(**{field.name: median(getattr(each, field.name) for each in rates) for field in fields(cls)})

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return {
            "requests_per_sec": self.images,
            "fetch_mb_per_sec": self.megabytes,
            "request_ms": self.request_ms,
            "request_ms_alone": self.request_ms_alone,
            "connections": self.connections,
            "fetch_busy_cores": self.busy_cores,
            "fetch_limit": self.limit,
        }


def measure_fetch(source: ImageSource, rows: Sequence[int]) -> tuple[FetchRates, ImageSource, list[int]]:
    """Fetch ``rows`` of ``source`` once as an extraction does, of which nothing is decoded.

    Returns the rates, a source that has some of the images in memory, and the rows of these.
    """
    alone = TimedSource(source)
    for index in sample_rows(len(rows), _ALONE).tolist():
        try:
            alone.read(rows[index])
        except PenultimateError:
            raise
        except OSError:  # this image's own fault; its request took its time like any other
            pass
    timed = TimedSource(source)
    kept: dict[int, bytes | NDArray[np.uint8]] = {}

    def keep(samples_B: NDArray[np.int64], contents: Sequence[Fetched]) -> NDArray[np.bool_]:
        if timed.num_bytes <= _KEPT_BYTES:
            pairs = zip(samples_B.tolist(), contents, strict=True)
            kept.update((sample, content) for sample, content in pairs if not isinstance(content, str))
        return np.zeros(len(samples_B), np.bool_)

    began, began_cpu = time.perf_counter(), time.process_time()
    for _ in FetchedSource(timed, num_threads=1, is_needed=keep).needed(rows):
        pass
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    rates = FetchRates(
        images=len(rows) / seconds,
        megabytes=timed.num_bytes / 1e6 / seconds,
        request_ms=1e3 * median(timed.seconds),
        request_ms_alone=1e3 * median(alone.seconds),
        busy_cores=cpu_seconds / seconds,
        connections=source.reads_at_once,
    )
    return rates, _KeptImages(source, kept), list(kept)


class TimedSource(ImageSource):
    """A source that notes how long each read takes, and how many bytes it gives."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self.seconds: list[float] = []
        self.num_bytes = 0

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
        began = time.perf_counter()
        content: bytes | NDArray[np.uint8] = b""
        try:
            content = self._source.read(index)
        finally:
            with self._lock:
                self.seconds.append(time.perf_counter() - began)
                self.num_bytes += len(content) if isinstance(content, bytes) else content.nbytes
        return content

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return self._source.fingerprint(index)


class _KeptImages(ImageSource):
    """A source whose samples are in memory."""

    reads_at_once = 1

    def __init__(self, source: ImageSource, contents: Mapping[int, bytes | NDArray[np.uint8]]) -> None:
        self._source = source
        self._contents = contents

    @property
    @override
    def location(self) -> str:
        return self._source.location

    @override
    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        return self._contents[index]

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return self._source.fingerprint(index)
