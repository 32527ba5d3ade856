"""A set is listed without reading it; each sample is read once, and must ever after be what it was."""

import io
import pickle
import tarfile
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from support.photographs import write_photos
from typing_extensions import override

from penultimate.engine.images import digest_cache
from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.digest_cache import DigestCache, FileFingerprint
from penultimate.engine.images.formats.parquet import ParquetSource
from penultimate.engine.images.formats.webdataset import TarSource
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.images.load import load_images
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.images.sources import ArraySource, FileSource
from penultimate.engine.images.subset import subset
from penultimate.store.errors import StoreError, VanishedImageError
from penultimate.store.format.contents import UNKNOWN, UNREADABLE, content_of, set_digest
from penultimate.store.format.digest import digest_of

VIEW = Preprocess(height=16, width=16, resize="whole", mean=(0, 0, 0), std=(1, 1, 1))
SOURCES = (FileSource, ArraySource, ParquetSource, TarSource)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count the reads of each sample, of whatever kind of source."""
    counts: Counter[int] = Counter()
    lock = threading.Lock()
    for kind in SOURCES:
        original = kind.read

        def counted(source: ImageSource, index: int, original: object = original) -> bytes | NDArray[np.uint8]:
            with lock:
                counts[index] += 1
            return original(source, index)  # type: ignore[no-any-return, operator]  # mypy takes the last kind's

        monkeypatch.setattr(kind, "read", counted)
    return counts


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files count as settled at once, as nobody can set a change time into the past."""
    monkeypatch.setattr(digest_cache, "_SETTLED_NS", 0)


@pytest.fixture(params=["folder", "manifest", "tar", "parquet", "npz"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Write 24 photographs in three classes, in each form that images come in."""
    photos = write_photos(tmp_path / "photos")
    files = sorted(photos.rglob("*.jpg"))
    names, labels = [str(file.relative_to(photos)) for file in files], [file.parent.name for file in files]
    match request.param:
        case "folder":
            return str(photos)
        case "manifest":
            table = "path,label\n" + "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
            (photos / "list.csv").write_text(table)
            return str(photos / "list.csv")
        case "tar":
            with tarfile.open(tmp_path / "photos.tar", "w") as tar:
                for number, (file, label) in enumerate(zip(files, labels, strict=True)):
                    tar.add(file, f"{number:02d}.jpg")
                    text = tarfile.TarInfo(f"{number:02d}.cls")
                    text.size = len(label)
                    tar.addfile(text, io.BytesIO(label.encode()))
            return str(tmp_path / "photos.tar")
        case "parquet":
            cells = [{"bytes": file.read_bytes(), "path": name} for file, name in zip(files, names, strict=True)]
            parquet.write_table(pa.table({"image": cells, "label": labels}), tmp_path / "a.parquet", row_group_size=5)
            return str(tmp_path / "a.parquet")
        case _:
            pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize((9, 8))) for file in files])
            np.savez(tmp_path / "a.npz", images=pixels, labels=np.array(labels))
            return str(tmp_path / "a.npz")


def decode(images: ImageSet) -> dict[int, str]:
    """Decode all images, and return those that failed with the reasons."""
    failed: dict[int, str] = {}
    for batch in PillowDecoder(num_workers=2).batches(images, range(len(images)), [VIEW], batch_size=8):
        failed |= batch.failed
    return failed


def test_listing_reads_no_image_and_decoding_reads_each_once_for_the_digest_too(
    spec: str, reads: Counter[int], tmp_path: Path
) -> None:
    for cache in (None, DigestCache(tmp_path / "cache")):
        reads.clear()
        images = load_images(spec, cache=cache)
        assert images.listing_digest
        assert not reads
        assert not images.contents.known().any()
        assert not decode(images)
        assert images.digest
        assert reads == Counter(range(24))


def test_the_digest_is_the_same_read_at_once_in_part_or_not_at_all(
    spec: str, reads: Counter[int], tmp_path: Path
) -> None:
    images = load_images(spec)
    whole = images.digest
    assert reads == Counter(range(24))
    assert images.digest == pickle.loads(pickle.dumps(images)).digest == whole
    assert reads == Counter(range(24))
    partly = load_images(spec, cache=DigestCache(tmp_path / "cache"))
    reads.clear()
    for index in range(5, 12):
        partly.source.read(index)
    assert partly.digest == whole
    assert reads == Counter(range(24))
    remembered = "npz" not in spec  # pixels in memory are digested as fast as looked up
    reads.clear()
    assert load_images(spec, cache=DigestCache(tmp_path / "cache")).digest == whole
    assert sum(reads.values()) == (0 if remembered else 24)


def test_what_decoding_read_is_cached_once_it_is_saved(tmp_path: Path, reads: Counter[int]) -> None:
    photos, cache = str(write_photos(tmp_path / "photos")), DigestCache(tmp_path / "cache")
    images = load_images(photos, cache=cache)
    other = load_images(photos, cache=cache)
    for index in range(10):
        images.source.read(index)
    for index in range(8, 20):
        other.source.read(index)
    images.contents.save()
    images.contents.save()
    other.contents.save()  # beside what is there by now
    again = load_images(photos, cache=cache)
    known_N3 = again.contents.known()
    np.testing.assert_array_equal(known_N3[:10], images.contents.known()[:10])
    np.testing.assert_array_equal(known_N3[8:20], other.contents.known()[8:20])
    assert not known_N3[20:].any()
    reads.clear()
    assert again.digest == load_images(photos).digest
    assert sorted(reads) == [*range(24)]
    assert {index for index in reads if reads[index] == 2} == {*range(20, 24)}


def test_a_copy_in_another_process_begins_with_what_is_known_and_saves_what_it_learns(tmp_path: Path) -> None:
    photos, cache = str(write_photos(tmp_path / "photos")), DigestCache(tmp_path / "cache")
    images = load_images(photos, cache=cache)
    images.source.read(0)
    copy = pickle.loads(pickle.dumps(images))
    assert copy.contents.known()[:, 0].astype(bool).tolist() == [True] + [False] * 23
    copy.source.read(1)
    assert not images.contents.known()[1].any()
    copy.contents.save()
    images.contents.save()
    assert load_images(photos, cache=cache).contents.known()[:, 0].astype(bool).tolist() == [True] * 2 + [False] * 22


def test_a_copy_whose_arrays_cannot_be_written_learns_all_the_same(tmp_path: Path) -> None:
    images = load_images(str(write_photos(tmp_path / "photos")))
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(images, protocol=5, buffer_callback=buffers.append)
    copy = pickle.loads(content, buffers=[bytes(buffer.raw()) for buffer in buffers])  # as Ray sends them
    assert buffers
    assert copy.source.read(3) == images.source.read(3)
    assert copy.digest == images.digest


@pytest.mark.parametrize("cached", [False, True])
def test_a_sample_that_was_known_must_stay_what_it_was(tmp_path: Path, cached: bool) -> None:
    photos, cache = write_photos(tmp_path / "photos"), DigestCache(tmp_path / "cache")
    assert not cached or load_images(str(photos), cache=cache).digest
    images = load_images(str(photos), cache=cache)
    file = photos / str(images.ids_N[3])
    content = file.read_bytes()
    assert cached or images.source.read(3) == content
    file.write_bytes(content + b"!")
    with pytest.raises(VanishedImageError, match=r"was changed after its set was digested; run again"):
        decode(images)
    file.unlink()
    with pytest.raises(VanishedImageError, match=r"cannot be read now: no such file.*to resume"):
        images.source.read(3)
    file.write_bytes(content)
    assert images.source.read(3) == content


def test_a_sample_that_could_not_be_read_fails_alone_and_stays_out(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    images = load_images(str(photos), cache=DigestCache(tmp_path / "cache"))
    file = photos / str(images.ids_N[3])
    content = file.read_bytes()
    file.unlink()
    assert decode(images) == {3: "the file is gone"}
    assert tuple(images.contents.known()[3].tolist()) == UNREADABLE
    file.write_bytes(content)
    assert "list the set again" in decode(images)[3]
    assert images.digest != load_images(str(photos)).digest
    again = load_images(str(photos), cache=DigestCache(tmp_path / "cache"))
    assert tuple(again.contents.known()[3].tolist()) == UNKNOWN  # which is not cached


def test_what_changes_while_it_is_read_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, cache = write_photos(tmp_path / "photos"), DigestCache(tmp_path / "cache")
    original = FileSource.read

    def touched(source: FileSource, index: int) -> bytes:
        content = original(source, index)
        if index == 3:
            (source.root / source.paths[index]).touch()
        return content

    monkeypatch.setattr(FileSource, "read", touched)
    assert load_images(str(photos), cache=cache).digest
    (unknown,) = np.flatnonzero(~load_images(str(photos), cache=cache).contents.known().any(axis=1))
    assert unknown == 3


def test_a_subset_shares_what_is_read_and_has_the_digest_it_always_had(tmp_path: Path, reads: Counter[int]) -> None:
    images = load_images(str(write_photos(tmp_path / "photos")))
    rows = np.array([2, 3, 5, 21])
    part = subset(images, rows)
    inner = subset(part, np.array([1, 3]))
    assert part.listing_digest != images.listing_digest
    assert not reads
    assert not decode(inner)
    assert reads == Counter([3, 21])
    for each, known in ((images, [3, 21]), (part, [1, 3]), (inner, [0, 1])):
        assert np.flatnonzero(each.contents.known().any(axis=1)).tolist() == known
    np.testing.assert_array_equal(part.contents.complete(part.source), images.contents.known()[rows])
    assert reads == Counter(rows.tolist())
    assert part.digest == digest_of([images.digest, rows.tolist()])
    assert inner.digest == digest_of([part.digest, [1, 3]])
    assert reads == Counter(range(24))
    assert pickle.loads(pickle.dumps(part)).digest == part.digest


def test_a_set_under_another_name_has_the_same_digest_and_with_other_labels_another(tmp_path: Path) -> None:
    images = load_images(str(write_photos(tmp_path / "photos")))
    assert replace(images, name="other").digest == images.digest
    assert replace(images, labels_N=images.labels_N[::-1]).digest != images.digest


class _Fakes(ImageSource):
    """A thousand samples, of which some cannot be read, and a server that may not answer."""

    location = "nowhere"
    reads_at_once = 1

    def __init__(self) -> None:
        self.lost: int | None = None
        self.reads: Counter[int] = Counter()

    @override
    def read(self, index: int) -> bytes:
        self.reads[index] += 1
        if index == self.lost:
            raise StoreError("the server does not answer")
        if index % 100 == 7:
            raise OSError("bad sector")
        return b"%d" % (index % 500)

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return FileFingerprint(index, 0, 0, 0)


def _fake_set(source: ImageSource, cache: DigestCache | None = None) -> ImageSet:
    return build_image_set(
        name="fakes",
        ids=[f"{index:04d}" for index in range(1000)],
        labels_N=np.full(1000, -1),
        split_N=np.full(1000, "test"),
        class_names=(),
        metric="top1",
        source=source,
        provenance={},
        cache=cache,
    )


def test_completing_reads_each_unknown_sample_once_and_marks_the_unreadable() -> None:
    source = _Fakes()
    images = _fake_set(source)
    contents_N3 = images.contents.complete(images.source)
    assert source.reads == Counter(range(1000))
    expected = [UNREADABLE if index % 100 == 7 else content_of(b"%d" % (index % 500)) for index in range(1000)]
    np.testing.assert_array_equal(contents_N3, np.array(expected, np.uint64))
    assert images.digest == set_digest(
        ids=images.ids_N.tolist(),
        labels_N=images.labels_N,
        split_N=images.split_N.tolist(),
        class_names=(),
        contents_N3=contents_N3,
    )
    assert source.reads == Counter(range(1000))  # nor is what could not be read tried again


def test_a_server_that_does_not_answer_stops_it_and_what_was_read_stays_known(tmp_path: Path) -> None:
    source, cache = _Fakes(), DigestCache(tmp_path)
    source.lost = 990
    images = _fake_set(source, cache)
    with pytest.raises(StoreError, match="does not answer"):
        assert images.digest
    found_N = images.contents.known()[:, 1] != 0
    assert 100 < found_N.sum() < 990
    np.testing.assert_array_equal(_fake_set(source, cache).contents.known()[:, 1] != 0, found_N)
    source.lost = None
    assert images.digest == _fake_set(source).digest


def test_threads_that_read_the_same_sample_agree_on_its_content() -> None:
    images = _fake_set(_Fakes())
    found: list[set[tuple[int, int, int]]] = [set() for _ in range(50)]

    def remember(thread: int) -> None:
        for index in range(50):
            found[index].add(images.contents.remember(index, (thread + 1, 1, 1)))

    threads = [threading.Thread(target=remember, args=(thread,)) for thread in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [len(each) for each in found] == [1] * 50
    assert [{tuple(row)} for row in images.contents.known()[:50].tolist()] == found
