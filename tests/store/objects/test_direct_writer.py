"""A file that is written directly holds the very bytes of its parts, and one that cannot be is written as usual."""

import errno
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penultimate.store.errors import StoreError
from penultimate.store.objects import direct_writer
from penultimate.store.objects.direct_writer import DirectWriter
from penultimate.store.objects.durable_files import DurableFiles
from penultimate.store.objects.local import LocalObjects

BLOCK = 16_384
"""Size of a block in these tests: files of a few blocks are small."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_writer, "_BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(direct_writer, "_LEAST_BYTES", BLOCK)


def parts_of_size(size: int) -> list[bytes | memoryview]:
    """Return parts of uneven sizes, empty ones among them, which are so many bytes together."""
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    cuts = [cut for cut in (0, 0, 5, 4096, 4100, 20_000) if cut < size]
    return [content.data[a:b] for a, b in zip(cuts, [*cuts[1:], size], strict=True)] + [b""]


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 4096, 3 * BLOCK + 4097])
def test_a_file_has_the_bytes_of_its_parts_whatever_their_sizes(tmp_path: Path, size: int) -> None:
    parts = parts_of_size(size)
    DurableFiles(tmp_path).write(tmp_path / "f" / "file", parts)
    assert (tmp_path / "f" / "file").read_bytes() == b"".join(parts)


def test_several_threads_write_at_once(tmp_path: Path) -> None:
    files = DurableFiles(tmp_path)
    sizes = range(2 * BLOCK, 2 * BLOCK + 24)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda size: files.write(tmp_path / str(size), parts_of_size(size)), sizes))
    for size in sizes:
        assert (tmp_path / str(size)).read_bytes() == b"".join(parts_of_size(size))


def test_a_small_file_is_left_to_the_page_cache(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        assert not DirectWriter().write(file.fileno(), [b"a" * (BLOCK - 1)])
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("refused_at", ["open", "first block", "second block"])
def test_a_file_system_without_direct_writes_gets_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused_at: str
) -> None:
    control, pwrite = fcntl.fcntl, os.pwrite

    def refusing_control(handle: int, command: int, argument: int = 0) -> int:
        if refused_at == "open" and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return control(handle, command, argument)

    def refusing_pwrite(handle: int, content: Any, offset: int) -> int:
        if offset >= (0 if refused_at == "first block" else BLOCK):
            raise OSError(errno.EINVAL, "Invalid argument")
        return pwrite(handle, content, offset)

    monkeypatch.setattr(fcntl, "fcntl", refusing_control)
    monkeypatch.setattr(os, "pwrite", refusing_pwrite)
    parts = parts_of_size(3 * BLOCK + 77)
    DurableFiles(tmp_path).write(tmp_path / "file", parts)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)


def test_a_system_without_direct_writes_gets_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_writer, "_CAN_WRITE_DIRECTLY", False)
    parts = parts_of_size(3 * BLOCK)
    DurableFiles(tmp_path).write(tmp_path / "file", parts)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)


def test_a_disk_that_takes_less_than_it_is_given_gets_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, content, offset: pwrite(handle, content[:8192], offset))
    parts = parts_of_size(3 * BLOCK + 77)
    DurableFiles(tmp_path).write(tmp_path / "file", parts)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)


def test_a_full_disk_leaves_nothing_behind_and_its_memory_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, full = os.pwrite, [True]

    def filling(handle: int, content: Any, offset: int) -> int:
        if full[0] and offset >= BLOCK:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(handle, content, offset)

    monkeypatch.setattr(os, "pwrite", filling)
    objects, parts = LocalObjects(tmp_path / "store"), parts_of_size(3 * BLOCK)
    with pytest.raises(StoreError, match="free some space"):
        objects.put("file", parts)
    assert objects.names("") == []
    full[0] = False
    objects.put("file", parts)
    assert objects.get("file") == b"".join(parts)
