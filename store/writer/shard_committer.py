"""ShardCommitter: commits of shards on a few threads, while the next shards are being filled."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self, TypeVar

_MOST_IN_FLIGHT = 8
"""Shards that are committed at once at most: a disk writes one while it syncs another, and an object store answers
several requests at a time. With shards of 5 MB, eight reached 0.60 of the rate of plain files, four 0.53."""

Value = TypeVar("Value")

_MEMORY_BYTES = 2**27
"""Memory that shards in flight may take, unless two of them take more."""


def shards_in_flight(shard_bytes: int) -> int:
    """Return the number of shards of a size that may be committed at once.

    >>> [shards_in_flight(megabytes * 2**20) for megabytes in (5, 40, 200)]
    [8, 3, 2]
    """
    return max(2, min(_MOST_IN_FLIGHT, _MEMORY_BYTES // shard_bytes))


class ShardCommitter:
    """Run commits on threads, at most ``in_flight`` at a time, so that no more shards than these stay in memory.

    A commit writes one shard and then its record, in one thread, so that their order is kept; different shards end in
    any order. After a commit failed, none that waits is begun; its error is raised by the next call. A context
    manager, which waits for all commits that were begun, also where an error leaves it. Used by one thread.
    """

    def __init__(self, *, in_flight: int) -> None:
        self._threads = ThreadPoolExecutor(in_flight + 1, thread_name_prefix="commit")
        self._in_flight = in_flight
        self._running: deque[Future[None]] = deque()
        self._error: BaseException | None = None

    def submit(self, commit: Callable[[], None]) -> None:
        """Begin a commit, once one of those in flight has ended; raises the error of one that failed."""
        while len(self._running) >= self._in_flight:
            self._collect(at_least=1)
        self.check()
        self._running.append(self._threads.submit(commit))

    def compute(self, value: Callable[[], Value]) -> "Future[Value]":
        """Begin to compute a value beside the commits, one at a time."""
        return self._threads.submit(value)

    def check(self) -> None:
        """Raise the error of a commit that failed meanwhile, without waiting for those in flight."""
        self._collect(at_least=0)
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait for all commits; raises the error of the first that failed."""
        self._collect(at_least=len(self._running))
        self.check()

    def close(self) -> None:
        """Wait for all commits and end the threads, without raising what a commit raised; may be called again."""
        self._collect(at_least=len(self._running))
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.close()

    def _collect(self, *, at_least: int) -> None:
        """Remove commits that ended, waiting for ``at_least`` of the oldest, and keep the first error."""
        wait(list(self._running)[:at_least])
        for future in [future for future in self._running if future.done()]:
            self._running.remove(future)
            self._error = self._error or future.exception()
