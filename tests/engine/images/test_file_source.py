"""A file is read as a whole, however the kernel gives it."""

import os
from pathlib import Path

import pytest

from penultimate.engine.images.sources import FileSource


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 300])
def test_the_bytes_of_a_file_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert FileSource(tmp_path, ["a.jpg"]).read(0) == content


def test_reading_goes_on_where_the_kernel_gives_less_than_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 10
    (tmp_path / "a.jpg").write_bytes(content)
    read = os.read
    monkeypatch.setattr(os, "read", lambda handle, size: read(handle, min(size, 100)))
    assert FileSource(tmp_path, ["a.jpg"]).read(0) == content


def test_a_file_that_grew_meanwhile_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"early")
    fstat = os.fstat

    def grown(handle: int) -> os.stat_result:
        status = fstat(handle)
        path.write_bytes(b"early and late")
        return status

    monkeypatch.setattr(os, "fstat", grown)
    assert FileSource(tmp_path, ["a.jpg"]).read(0) == b"early and late"


def test_a_folder_in_the_place_of_a_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        FileSource(tmp_path.parent, [tmp_path.name]).read(0)
