"""Each object is fetched once, in order, few ahead, and looked up before it is decoded."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penultimate.engine.extract import fetch
from penultimate.engine.extract.extract import extract
from penultimate.engine.extract.fetch import Fetched, FetchedSource, KeptSource
from penultimate.engine.images.digest_cache import UNKNOWN, FileFingerprint
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_source import ImageSource
from penultimate.store.errors import StoreError
from penultimate.store.feature_store import FeatureStore


class CountingSource(ImageSource):
    """Counts the reads of each sample; sample i holds the bytes of i, unless another source is behind it."""

    location = "memory"
    reads_at_once = 1

    def __init__(self, behind: ImageSource | None = None, *, errors: dict[int, Exception] | None = None) -> None:
        self._behind = behind
        self._errors = errors or {}
        self._lock = threading.Lock()
        self.reads: Counter[int] = Counter()

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        with self._lock:
            self.reads[index] += 1
        if self._behind is not None:
            return self._behind.read(index)
        time.sleep(0.003 * (index % 3 == 0))  # so that later ones are there before earlier ones
        if index in self._errors:
            raise self._errors[index]
        return str(index).encode()

    def fingerprint(self, index: int) -> FileFingerprint:
        return UNKNOWN if self._behind is None else self._behind.fingerprint(index)


class Needs:
    """Remembers what it was asked; samples in ``but`` are not needed."""

    def __init__(self, but: Sequence[int] = ()) -> None:
        self._but = but
        self.asked: dict[int, Fetched] = {}
        self.threads: set[str] = set()

    def __call__(self, indices_B: NDArray[np.int64], read: Sequence[Fetched]) -> NDArray[np.bool_]:
        self.threads.add(threading.current_thread().name)
        assert self.asked.keys().isdisjoint(indices_B.tolist())
        self.asked |= dict(zip(indices_B.tolist(), read, strict=True))
        return ~np.isin(indices_B, self._but)


def test_samples_come_in_order_each_read_once_and_those_not_needed_are_passed_over() -> None:
    source, needs = CountingSource(), Needs(but=[3, 4, 50])
    fetched = FetchedSource(source, num_threads=3, is_needed=needs)
    order = np.random.default_rng(0).permutation(100).tolist()
    found = []
    for index in fetched.needed(order):
        found.append(index)
        assert fetched.read(index) == str(index).encode()
    assert found == [index for index in order if index not in (3, 4, 50)]
    assert source.reads == Counter(range(100))
    assert needs.asked == {index: str(index).encode() for index in range(100)}
    assert list(needs.asked) == order
    assert needs.threads == {threading.current_thread().name}


def test_few_are_read_ahead_of_what_is_taken() -> None:
    source = CountingSource()
    fetched = FetchedSource(source, num_threads=4, is_needed=Needs())
    ahead = 0
    for number, index in enumerate(fetched.needed(range(1000)), start=1):
        time.sleep(0.0005)
        ahead = max(ahead, sum(source.reads.values()) - number)
        fetched.read(index)
    assert fetch._LOOK_UP < ahead <= fetch._IN_FLIGHT + fetch._LOOK_UP


def test_what_cannot_be_read_is_told_with_its_reason_and_passed_over() -> None:
    needs = Needs()
    source = CountingSource(errors={5: FileNotFoundError(2, "No such file"), 7: PermissionError(13, "Denied")})
    fetched = FetchedSource(source, num_threads=2, is_needed=needs)
    assert list(fetched.needed(range(10))) == [0, 1, 2, 3, 4, 6, 8, 9]
    assert needs.asked[5] == "the file is gone"
    assert isinstance(needs.asked[7], str)
    assert source.reads == Counter(range(10))


def test_an_error_in_the_middle_ends_it_after_what_came_before_and_no_thread_is_left() -> None:
    before = threading.active_count()
    source = CountingSource(errors={500: StoreError("the server does not answer")})
    fetched = FetchedSource(source, num_threads=4, is_needed=Needs())
    found: list[int] = []
    with pytest.raises(StoreError, match="does not answer"):
        found.extend(fetched.needed(range(1000)))
    assert found == list(range(500 // fetch._LOOK_UP * fetch._LOOK_UP))
    assert max(source.reads) <= 500 + fetch._IN_FLIGHT + fetch._LOOK_UP
    assert threading.active_count() == before


def test_one_who_takes_no_more_leaves_no_thread() -> None:
    before = threading.active_count()
    taken = FetchedSource(CountingSource(), num_threads=4, is_needed=Needs()).needed(range(1000))
    assert [next(taken) for _ in range(20)] == list(range(20))
    taken.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == before


def test_kept_samples_are_read_once_and_others_as_often_as_asked() -> None:
    source = CountingSource()
    kept = KeptSource(source, [1, 3])
    for _ in range(3):
        assert [kept.read(index) for index in range(4)] == [b"0", b"1", b"2", b"3"]
    assert source.reads == Counter({0: 3, 1: 1, 2: 3, 3: 1})


TINY: dict[str, Any] = {"weights": "random", "decoder": "pillow", "compile": False, "workers": 2, "shard_rows": 8}


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("models", [("test_vit",), ("test_vit", "test_resnet")])
def test_an_extraction_reads_each_image_once_those_of_the_parity_check_too(
    photos: Path, tmp_path: Path, models: tuple[str, ...], parity: bool
) -> None:
    images = load_folder(photos)
    source = CountingSource(images.source)
    store = FeatureStore.create(tmp_path / "store")
    extract(replace(images, source=source), store=store, model=models, parity=parity, **TINY)
    assert source.reads == Counter(range(24))


def test_images_whose_rows_are_known_are_not_read_again_nor_decoded(photos: Path, tmp_path: Path) -> None:
    """Of a set whose contents are remembered only the new one is read; of one listed anew each is, once."""
    store = FeatureStore.create(tmp_path / "store")
    images = load_folder(photos)
    (first,) = extract(images, store=store, model="test_vit", parity=False, **TINY)
    anew = images.contents.known()
    source = CountingSource(images.source)
    relabelled = replace(images, labels_N=images.labels_N[::-1].copy(), source=source)
    (again,) = extract(relabelled, store=store, model="test_vit", parity=False, **TINY)
    assert source.reads == Counter()
    np.testing.assert_array_equal(again.features, first.features, strict=True)
    assert again.labels.tolist() == first.labels.tolist()[::-1]
    listed = load_folder(photos)
    source = CountingSource(listed.source)
    extract(replace(listed, source=source, name="other"), store=store, model="test_vit", parity=False, **TINY)
    assert source.reads == Counter(range(24))
    np.testing.assert_array_equal(listed.contents.known(), anew)
