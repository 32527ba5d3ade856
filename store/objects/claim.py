"""Claim: the right of one writer to some shards; on a local disk a POSIX byte-range lock, byte i for shard i.

The kernel releases a lock when its process ends, so a killed writer leaves none behind. A process loses its POSIX
locks on a file when it closes *any* handle of it; therefore all claims of a process on one lock file use one handle,
and a registry tells them apart.
"""

import fcntl
import json
import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Protocol, Self

from typing_extensions import override

from penultimate.store.errors import StoreBusyError

WHOLE_KEY = range(2**40, 2**40 + 1)
"""The byte, beyond every shard, whose claim allows setting up or completing a key."""

REFERENCES = range(2**41, 2**42)
"""Bytes of which everyone who refers to rows, without writing there, claims one at random: see ``reference``."""

EVERYTHING = range(REFERENCES.stop)
"""Every shard, the key itself and all references, claimed to delete rows."""


def reference() -> range:
    """Return what to claim so that rows stay while one refers to them; as many as like may hold such claims."""
    byte = SystemRandom().randrange(REFERENCES.start, REFERENCES.stop)
    return range(byte, byte + 1)


@dataclass
class _OpenLock:
    """The one handle this process has on a lock file, and the bytes it has locked."""

    path: Path
    handle: int
    held: list[range] = field(default_factory=list)

    def is_current(self) -> bool:
        """Return whether the file still exists; the writer that completes a key removes it."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.handle), self.path.stat())
        return False

    def close_if_unused(self) -> None:
        """Close the handle if no byte is locked through it."""
        if not self.held:
            os.close(self.handle)
            if _open.get(self.path) is self:
                del _open[self.path]

    def holder(self, shards: range) -> str:
        """Describe who locked any of ``shards`` last, from the line that every holder appends to the file."""
        content = os.pread(self.handle, os.fstat(self.handle).st_size, 0).decode()
        for line in reversed(content.splitlines()):
            entry = json.loads(line)
            if overlap(range(entry["first"], entry["stop"]), shards):
                return f"process {entry['pid']} on {entry['host']}"
        return "another process, which is only just starting"


_open: dict[Path, _OpenLock] = {}
_guard = threading.Lock()
os.register_at_fork(after_in_child=_open.clear)  # a forked child inherits the handles, but none of the locks


class Claim(Protocol):
    """The sole right to write some shards of a key, until ``release``; also a context manager."""

    def check(self) -> None:
        """Raise StoreBusyError if the right was lost meanwhile, which happens to leases only."""

    def release(self) -> None:
        """Let others have the shards; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LockClaim(Claim):
    """A Claim by file locks, held from construction on.

    Raises StoreBusyError, naming the holder, if another process or another part of this one holds any of the shards,
    and OSError if the lock file cannot be made.
    """

    def __init__(self, lock_file: Path, shards: range) -> None:
        self._shards = shards
        with _guard:
            self._lock: _OpenLock | None = _acquire(lock_file.absolute(), shards)

    @override
    def check(self) -> None:
        pass  # the kernel takes no lock away

    @override
    def release(self) -> None:
        with _guard:
            if self._lock is not None:
                self._lock.held.remove(self._shards)
                _unlock_bytes(self._lock, self._shards)
                self._lock.close_if_unused()
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _acquire(path: Path, shards: range) -> _OpenLock:
    while True:
        lock = _handle_on(path)
        try:
            _lock_bytes(lock, shards)
            if lock.is_current():
                _sign(lock, shards)
                lock.held.append(shards)
                return lock
            _unlock_bytes(lock, shards)  # removed between opening and locking: take the file that is there now
        finally:
            lock.close_if_unused()


def _handle_on(path: Path) -> _OpenLock:
    if (lock := _open.get(path)) is not None and lock.is_current():
        return lock
    path.parent.mkdir(parents=True, exist_ok=True)
    _open[path] = _OpenLock(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666))
    return _open[path]


def _lock_bytes(lock: _OpenLock, shards: range) -> None:
    try:
        if any(overlap(shards, held) for held in lock.held):
            raise BlockingIOError("held by another part of this process")
        fcntl.lockf(lock.handle, fcntl.LOCK_EX | fcntl.LOCK_NB, len(shards), shards.start)
    except (BlockingIOError, PermissionError) as error:  # POSIX allows both EAGAIN and EACCES
        raise StoreBusyError(
            f"{lock.path.parent.parent} is being written by {lock.holder(shards)}; "
            "wait for it to end, or end it and run again to resume where it stopped"
        ) from error


def _unlock_bytes(lock: _OpenLock, shards: range) -> None:
    fcntl.lockf(lock.handle, fcntl.LOCK_UN, len(shards), shards.start)


def _sign(lock: _OpenLock, shards: range) -> None:
    entry = {"pid": os.getpid(), "host": socket.gethostname(), "first": shards.start, "stop": shards.stop}
    try:
        os.write(lock.handle, (json.dumps(entry) + "\n").encode())
    except OSError:
        _unlock_bytes(lock, shards)
        raise


def overlap(a: range, b: range) -> bool:
    """Return whether two ranges of shards intersect."""
    return a.start < b.stop and b.start < a.stop
