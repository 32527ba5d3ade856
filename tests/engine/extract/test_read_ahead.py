"""FetchedSource reads as many images ahead as the source wants, each once, and not much more than fits in memory."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import override

from penultimate.engine.extract import fetch
from penultimate.engine.extract.fetch import Fetched, FetchedSource, KeptSource
from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.contents import Contents
from penultimate.engine.images.digest_cache import UNKNOWN, FileFingerprint
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.images.sources import DigestingSource
from penultimate.engine.images.subset import subset
from penultimate.store.errors import StoreError

# Shapes: B images of a group.


class Server(ImageSource):
    """A hundred images of a server that takes a while, some of which are not there."""

    location = "there"

    def __init__(self, *, reads_at_once: int, size: int = 10, seconds: float = 0.005) -> None:
        self._reads_at_once = reads_at_once
        self._size = size
        self._seconds = seconds
        self._lock = threading.Lock()
        self._now = 0
        self.most_at_once = 0
        self.gone_from: int | None = None
        self.reads: Counter[int] = Counter()

    @property
    @override
    def reads_at_once(self) -> int:
        return self._reads_at_once

    @override
    def read(self, index: int) -> bytes:
        with self._lock:
            self.reads[index] += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self._seconds)
        with self._lock:
            self._now -= 1
        if self.gone_from is not None and index >= self.gone_from:
            raise StoreError("the server does not answer")
        if index % 10 == 7:
            raise FileNotFoundError("there is no such object")
        return bytes([index]) * self._size

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return UNKNOWN


def all_needed(samples_B: NDArray[np.int64], contents: Sequence[Fetched]) -> NDArray[np.bool_]:
    return np.ones(len(samples_B), np.bool_)


def read_in_order(source: FetchedSource) -> Iterator[tuple[int, object]]:
    for index in source.needed(range(100)):
        yield index, source.read(index)


@pytest.mark.parametrize("reads_at_once", [1, 16])
def test_every_image_is_read_once_and_what_is_needed_comes_in_order(reads_at_once: int) -> None:
    server = Server(reads_at_once=reads_at_once)
    told: dict[int, Fetched] = {}

    def even_needed(samples_B: NDArray[np.int64], contents: Sequence[Fetched]) -> NDArray[np.bool_]:
        told.update(zip(samples_B.tolist(), contents, strict=True))
        return np.equal(samples_B % 2, 0)

    source = FetchedSource(server, num_threads=2, is_needed=even_needed)
    assert list(read_in_order(source)) == [(index, bytes([index]) * 10) for index in range(0, 100, 2)]
    assert server.reads == Counter(range(100))
    assert [told[index] for index in (6, 7)] == [bytes([6]) * 10, "there is no such object"]
    assert server.most_at_once <= max(2, reads_at_once)


def test_as_many_are_in_flight_as_the_source_wants() -> None:
    server = Server(reads_at_once=24, seconds=0.2)  # long enough for a busy machine to begin the others
    assert len(list(read_in_order(FetchedSource(server, num_threads=2, is_needed=all_needed)))) == 90
    assert 12 <= server.most_at_once <= 24


@pytest.mark.parametrize("reads_at_once", [1, 24])
def test_large_images_are_fewer_in_flight(reads_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_MOST_BYTES", 4_000)
    server = Server(reads_at_once=reads_at_once, size=1_000)
    source = FetchedSource(server, num_threads=8, is_needed=all_needed)
    held = []
    for index in source.needed(range(100)):
        held.append(sum(len(content) for content in source._fetched.values()))
        assert source.read(index) == bytes([index]) * 1_000
        if index == 30:
            assert server.most_at_once <= 8  # before the first was read nobody knows how large they are
            server.most_at_once = 0
    assert server.most_at_once <= 5
    assert max(held) <= 8_000  # what is looked up together
    assert server.reads == Counter(range(100))


def test_what_a_decoder_has_not_taken_counts_as_ahead_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_MOST_BYTES", 4_000)
    server = Server(reads_at_once=24, size=1_000)
    source = FetchedSource(server, num_threads=8, is_needed=all_needed)
    indices = list(source.needed(range(100)))  # takes none of them
    assert len(indices) == 90
    assert [source.read(index) for index in indices] == [bytes([index]) * 1_000 for index in indices]


def test_a_server_that_is_gone_stops_the_run_without_what_was_still_to_be_read() -> None:
    server = Server(reads_at_once=8)
    server.gone_from = 20
    with pytest.raises(StoreError, match="does not answer"):
        list(read_in_order(FetchedSource(server, num_threads=1, is_needed=all_needed)))
    assert sum(server.reads.values()) <= 20 + 16 + 8
    server = Server(reads_at_once=8)
    needed = FetchedSource(server, num_threads=1, is_needed=all_needed).needed(range(100))
    assert next(needed) == 0
    needed.close()  # type: ignore[attr-defined]  # it is a generator
    assert sum(server.reads.values()) <= 8 + 16


def test_sources_around_a_source_read_as_much_at_once() -> None:
    server = Server(reads_at_once=24)
    ids = [f"{index:02d}" for index in range(100)]
    images = build_image_set(
        name="server",
        ids=ids,
        labels_N=np.full(100, -1),
        split_N=np.full(100, "test"),
        class_names=(),
        metric="top1",
        source=server,
        provenance={},
    )
    around = [
        images.source,
        DigestingSource(server, ids, Contents.recall(ids, server)),
        subset(images, np.arange(5)).source,
        KeptSource(images.source, [1]),
        FetchedSource(KeptSource(images.source, [1]), num_threads=1, is_needed=all_needed),
    ]
    assert [source.reads_at_once for source in around] == [24] * len(around)


def test_a_set_is_digested_with_as_many_reads_at_once() -> None:
    server = Server(reads_at_once=24, seconds=0.2)  # long enough for a busy machine to begin the others
    ids = [f"{index:02d}" for index in range(100)]
    source = DigestingSource(server, ids, contents := Contents.recall(ids, server))
    contents.complete(source)
    assert 17 <= server.most_at_once <= 24
