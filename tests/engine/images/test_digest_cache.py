"""A digest from the cache equals the one that reading gives: a cache may only save time."""

import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from penultimate.engine.images import digest_cache
from penultimate.engine.images.digest_cache import DigestCache, Entries, user_cache
from penultimate.engine.images.load import load_images
from penultimate.engine.images.sources import FileSource
from penultimate.store.errors import InputError
from penultimate.store.format.contents import content_text


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the paths of the files that are read, in any order."""
    read: list[str] = []
    original = FileSource.read

    def counted(source: FileSource, index: int) -> bytes:
        read.append(source.paths[index])
        return original(source, index)

    monkeypatch.setattr(FileSource, "read", counted)
    return read


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Write 600 files in two classes, an hour ago: more than a group, and old enough to be cached."""
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(300):
            write(tmp_path / "pets" / name / f"{number:03d}.jpg", f"{name} {number}".encode())
    return tmp_path / "pets"


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files count as settled at once, as nobody can set a change time into the past."""
    monkeypatch.setattr(digest_cache, "_SETTLED_NS", 0)


def test_known_files_are_not_read_again_and_give_the_same_digest(pets: Path, tmp_path: Path, reads: list[str]) -> None:
    cache = DigestCache(tmp_path / "cache")
    plain = load_images(str(pets)).digest
    assert len(reads) == 600
    reads.clear()
    assert load_images(str(pets), cache=cache).digest == plain
    assert len(reads) == 600
    reads.clear()
    assert load_images(str(pets), cache=cache).digest == plain
    assert load_images(str(pets), cache=cache, seed=1).digest != plain  # another split of the same contents
    assert reads == []


def test_only_what_changed_is_read_also_if_size_and_modification_time_are_as_they_were(
    pets: Path, tmp_path: Path, reads: list[str]
) -> None:
    cache = DigestCache(tmp_path / "cache")
    assert load_images(str(pets), cache=cache).digest
    changed = pets / "cat" / "007.jpg"
    before = changed.stat()
    changed.write_bytes(b"cat X")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    (pets / "dog" / "299.jpg").unlink()
    write(pets / "dog" / "new.jpg", b"new")
    reads.clear()
    cached = load_images(str(pets), cache=cache).digest
    assert sorted(reads) == ["cat/007.jpg", "dog/new.jpg"]
    assert cached == load_images(str(pets)).digest


def test_a_file_that_may_still_change_within_its_time_step_is_not_remembered(
    pets: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_cache, "_SETTLED_NS", 10**18)
    for _ in range(2):
        reads.clear()
        assert load_images(str(pets), cache=DigestCache(tmp_path / "cache")).digest
        assert len(reads) == 600


def test_what_was_read_before_an_interruption_is_remembered(
    pets: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DigestCache(tmp_path / "cache")
    original = FileSource.fingerprint

    def interrupted(source: FileSource, index: int) -> digest_cache.FileFingerprint:
        if index == 599:
            raise KeyboardInterrupt
        return original(source, index)

    monkeypatch.setattr(FileSource, "fingerprint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assert load_images(str(pets), cache=cache).digest
    monkeypatch.setattr(FileSource, "fingerprint", original)
    reads.clear()
    assert load_images(str(pets), cache=cache).digest
    assert len(reads) < 300


def test_writers_at_the_same_time_leave_a_whole_cache(pets: Path, tmp_path: Path) -> None:
    digests: list[str] = []

    def load() -> None:
        digests.append(load_images(str(pets), cache=DigestCache(tmp_path / "cache")).digest)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [load_images(str(pets)).digest] * 4
    (file,) = (tmp_path / "cache").iterdir()
    assert file.suffix == ".parquet"


def test_contents_are_kept_as_texts_as_they_always_were_whatever_their_words(tmp_path: Path) -> None:
    ids = ["a", "b", "c"]
    contents_N3 = np.array([[0, 1, 2**64 - 1], [2**63 - 1, 2**63, 0], [123, 0xABC, 0]], np.uint64)
    fingerprints_NF = np.arange(12).reshape(3, 4)
    cache = DigestCache(tmp_path)
    cache.save("here", ids, Entries(fingerprints_NF, contents_N3))
    texts = parquet.read_table(cache.path("here"))["content"].to_pylist()
    assert texts == [content_text(content).encode() for content in contents_N3.tolist()]
    loaded = cache.load("here", ["0", *ids])
    np.testing.assert_array_equal(loaded.contents_N3, [[0, 0, 0], *contents_N3.tolist()])
    np.testing.assert_array_equal(loaded.fingerprints_NF, [[-1] * 4, *fingerprints_NF.tolist()])
    cache.save("empty", ids, Entries(np.full((3, 4), -1), contents_N3))
    assert not cache.load("empty", ids).contents_N3.any()


def test_a_damaged_cache_and_one_that_cannot_be_written_are_said(pets: Path, tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    assert load_images(str(pets), cache=cache).digest
    (file,) = cache.folder.iterdir()
    file.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"cannot be read.*delete it, or use --no-cache"):
        load_images(str(pets), cache=cache)
    table = pa.table({name: [1] for name in ("number", "size", "modified_ns", "changed_ns")})
    parquet.write_table(table.append_column("id", [["cat/000.jpg"]]).append_column("content", [[b"5:xyz"]]), file)
    with pytest.raises(InputError, match=r"cannot be read.*delete it, or use --no-cache"):
        load_images(str(pets), cache=cache)
    (tmp_path / "a_file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot be written.*--no-cache"):
        assert load_images(str(pets), cache=DigestCache(tmp_path / "a_file")).digest


def test_the_users_cache_follows_the_xdg_rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache().folder == tmp_path / "penultimate" / "digests"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache().folder == tmp_path / ".cache" / "penultimate" / "digests"
