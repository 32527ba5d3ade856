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
        new = self._make_folders(path.parent)
        try:
            partial = self._write_partial(path, parts)
        except FileNotFoundError:  # somebody removed the folder meanwhile
            self._known_folders.clear()
            new = self._make_folders(path.parent)
            partial = self._write_partial(path, parts)
        self._rename(partial, path)
        self._sync_folder(path.parent)
        # Only now: on ext4 the sync of the file has put its new folders on the disk as well, so that these find nothing
        # to do, where syncing each new folder before would be one more commit of the journal.
        for folder in new:
            if folder != self._root:
                self._sync_folder(folder.parent)
        self._known_folders.update(new)

    def _make_folders(self, folder: Path) -> list[Path]:
        """Make a folder and those above it, up to ``root``; returns those this process did not know, deepest first.

        Their own entries are still to be put on the disk, also where the folders were there already: whoever made them
        may have been killed before that.
        """
        new = []
        for above in (folder, *folder.parents):
            if above in self._known_folders:
                break
            new.append(above)
            if above == self._root:
                break
        if new:
            folder.mkdir(parents=True, exist_ok=True)
        return new

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
