"""A spool gives back what it was given, in its share of the disk and no further, and leaves no file behind."""

import os
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penultimate.engine.images.formats import spool
from penultimate.engine.images.formats.spool import Spool


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_several_threads_append_is_read_back_and_no_file_is_seen(folder: Path) -> None:
    one = Spool()
    contents = [bytes([number]) * (1000 + number) for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        positions = list(pool.map(one.append, contents))
    for position, content in zip(positions, contents, strict=True):
        assert position is not None
        assert one.read(position, len(content)) == content
    assert list(folder.iterdir()) == []


def test_it_takes_its_share_of_the_free_space_and_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = os.statvfs(folder)
    monkeypatch.setattr(spool, "SHARE_OF_FREE_SPACE", 10_000 / (space.f_bavail * space.f_frsize))
    one = Spool()
    kept = [position for _ in range(100) if (position := one.append(b"x" * 1000)) is not None]
    assert 5 <= len(kept) <= 15  # the free space of a disk that others use moves a little meanwhile
    assert kept == list(range(0, 1000 * len(kept), 1000))
    assert pickle.loads(pickle.dumps(one)).append(b"y") == 0  # a copy begins empty


def test_a_disk_that_is_full_keeps_nothing_and_stops_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes, position: int) -> int:
        raise OSError(28, "No space left on device")

    one = Spool()
    monkeypatch.setattr(os, "pwrite", full)
    assert one.append(b"x") is None
