"""DurableFiles: write files of a local folder so that a kill, or a power cut, at any moment harms none of them.

A file is written beside its place, synced and renamed, then the folder is synced, which makes the rename durable. The
folders above are synced only when this process sees them for the first time: their entries do not change afterwards.
"""

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from penultimate.store.objects.direct_writer import DirectWriter

PARTIAL = ".partial"
"""End of the name of a file that is being written, or that a kill left half written."""

_PARTIAL_NAME = re.compile(rf".+\.[0-9a-f]{{32}}{re.escape(PARTIAL)}")

_MOST_BUFFERS = 512
"""Number of buffers given to one system call, of the 1024 that Linux takes."""

_AT_ONCE = 8
"""Files, or folders, of ``write_many`` that are synced at once."""


class DurableFiles:
    """Write files below ``root``; safe for use by several threads. Raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known_folders: set[Path] = set()
        """Folders whose own entries in the folders above are on the disk."""
        self._direct = DirectWriter()

    def write(self, path: Path, parts: Sequence[bytes | memoryview]) -> None:
        """Write or replace one file below ``root`` with these parts, one behind the other."""
        new = self._make_folders(path.parent)
        self._rename(self._write_partial(path, parts), path)
        # New folders only now: on ext4 the sync of the file has put them on the disk as well, so that these find
        # nothing to do, where syncing each before would be one more commit of the journal.
        for folder in [path.parent, *(folder.parent for folder in new if folder != self._root)]:
            self._sync_folder(folder)
        self._known_folders.update(new)

    def write_many(self, contents: Mapping[Path, Sequence[bytes | memoryview]]) -> None:
        """Write or replace several files, each as ``write`` does, in the time of a few syncs.

        Whatever is synced on the same occasion is synced at the same time, because a journal takes it all at once.
        """
        new = {folder for path in contents for folder in self._make_folders(path.parent)}
        folders = {path.parent for path in contents} | {folder.parent for folder in new if folder != self._root}
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="put") as pool:
            written = [pool.submit(self._write_partial, path, parts) for path, parts in contents.items()]
            wait(written)
            if failed := [one for one in written if one.exception() is not None]:
                for one in set(written) - set(failed):
                    one.result().unlink()
                failed[0].result()
            for one, path in zip(written, contents, strict=True):
                self._rename(one.result(), path)
            for _ in pool.map(self._sync_folder, sorted(folders, reverse=True)):
                pass
        self._known_folders.update(new)

    def _make_folders(self, folder: Path) -> list[Path]:
        """Make a folder and those above it, up to ``root``; returns those this process did not know, deepest first.

        Their own entries are still to be put on the disk, also where the folders were there already: whoever made them
        may have been killed before that.
        """
        new = []
        for above in (folder, *folder.parents):
            if above in self._known_folders and above.is_dir():  # not if somebody removed it
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
            if not self._direct.write(handle, parts):
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


def is_partial(name: str) -> bool:
    """Return whether a file of this name is one that ``DurableFiles`` is writing or was killed in writing."""
    return _PARTIAL_NAME.fullmatch(name) is not None


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
