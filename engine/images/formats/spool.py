"""Spool keeps on the local disk what was fetched from a server once and will be needed again in this process."""

import os
import tempfile
import threading
import weakref
from typing import IO, Any

SHARE_OF_FREE_SPACE = 0.25
"""Share of the space that is free in the folder of temporary files (TMPDIR) which a spool may fill."""


class Spool:
    """A temporary file without a name: it takes no more space than its share, and is gone with the process.

    Several threads may use it. A copy in another process begins empty.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._size = 0
        self._most = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Spool, ()

    def append(self, content: bytes) -> int | None:
        """Keep ``content``; return the position to read it at, or None if its share, or the disk, is full."""
        with self._lock:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it lives as long as this object)
                weakref.finalize(self, self._file.close)
                space = os.fstatvfs(self._file.fileno())
                self._most = int(SHARE_OF_FREE_SPACE * space.f_bavail * space.f_frsize)
            position = self._size
            if position + len(content) > self._most:
                return None
            self._size += len(content)
        try:
            return position if os.pwrite(self._file.fileno(), content, position) == len(content) else None
        except OSError:  # others have filled the disk
            return None

    def read(self, position: int, size: int) -> bytes:
        """Read what lies at a position that ``append`` returned, or behind it."""
        assert self._file is not None, "something was appended"
        return os.pread(self._file.fileno(), size, position)
