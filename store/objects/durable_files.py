"""DurableFiles: write files of a local folder so that a kill, or a power cut, at any moment harms none of them.

A file is written beside its place, synced and renamed, then the folder is synced, which makes the rename durable. The
folders above are synced only when this process sees them for the first time: their entries do not change afterwards.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

PARTIAL = ".partial"
"""End of the name of a file that is being written, or that a kill left half written."""

_MOST_BUFFERS = 512
"""Number of buffers given to one system call, of the 1024 that Linux takes."""


class DurableFiles:
    """Write files below ``root``; safe for use by several threads. Raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known_folders: set[Path] = set()
        """Folders whose own entries in the folders above are on the disk."""

    def write(self, path: Path, parts: Sequence[bytes | memoryview]) -> None:
        """Write or replace one file below ``root`` with these parts, one behind the other."""
        self._make_folder(path.parent)
        try:
            partial = self._write_partial(path, parts)
        except FileNotFoundError:  # somebody removed the folder meanwhile
            self._known_folders.clear()
            self._make_folder(path.parent)
            partial = self._write_partial(path, parts)
        self._rename(partial, path)
        self._sync_folder(path.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder durably, with those above it, up to ``root``."""
        if folder in self._known_folders:
            return
        if folder == self._root:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            self._sync_folder(folder.parent)  # also if it was there: whoever made it may have been killed before this
        self._known_folders.add(folder)

    def _write_partial(self, path: Path, parts: Sequence[bytes | memoryview]) -> Path:
        partial = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _write_all(handle, parts)
            os.fsync(handle)
        except Exception:
            with suppress(OSError):
                partial.unlink()
            raise
        finally:
            os.close(handle)
        return partial

    def _rename(self, partial: Path, path: Path) -> None:
        try:
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise

    def _sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_all(handle: int, parts: Sequence[bytes | memoryview]) -> None:
    """Write all parts, however much the kernel takes at once."""
    left = [view for part in parts if (view := memoryview(part).cast("B"))]
    while left:
        count = os.writev(handle, left[:_MOST_BUFFERS])
        written = 0
        while written < len(left) and count >= len(left[written]):
            count -= len(left[written])
            written += 1
        del left[:written]
        if count:
            left[0] = left[0][count:]
