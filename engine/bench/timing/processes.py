"""Contenders in processes of their own, which work a turn whenever they are told to.

Allocators, thread pools and streams belong to a process; what is measured in one of its own has them to itself, as it
has in use.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any


class Turns:
    """The end of a contender's process: says that a turn is over, and waits for the next."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ready(self) -> None:
        """Say that all is loaded, and wait for the first turn."""
        self.over(0)

    def over(self, count: int) -> None:
        """Say that ``count`` items are done, and wait for the next turn; raises EOFError once there is none."""
        try:
            self._connection.send(count)
        except BrokenPipeError as error:  # the process that measures was killed during the turn
            raise EOFError("there are no turns any more") from error
        self._connection.recv()


class Remote:
    """A contender in a process of its own, as the process that measures sees it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def begin(self) -> None:
        """Let it begin its turn. Raises RuntimeError if its process has ended."""
        try:
            self._connection.send("begin")
        except OSError as error:
            raise _ended() from error

    def end(self) -> int:
        """Wait until its turn is over; return the number of items that it did. Raises as ``begin`` does."""
        try:
            return int(self._connection.recv())
        except (EOFError, OSError) as error:
            raise _ended() from error

    def turn(self) -> Iterator[int]:
        """Do one turn, as the ``run`` of a Contender."""
        self.begin()
        yield self.end()


@contextmanager
def started(work: Callable[..., None], *args: Any) -> Iterator[Remote]:
    """Start a process that calls ``work(*args, turns)``, a function of a module, until there are no turns any more.

    Once it is loaded it calls ``turns.ready()``, for which ``end`` waits before the first turn.
    """
    context = multiprocessing.get_context("spawn")
    connection, remote_end = context.Pipe()
    process = context.Process(target=_serve, args=(work, args, remote_end))
    process.start()
    remote_end.close()  # so that a process that died is an EOFError here
    try:
        yield Remote(connection)
    finally:
        connection.close()
        process.join()


def _serve(work: Callable[..., None], args: tuple[Any, ...], connection: Connection) -> None:
    with suppress(EOFError):
        work(*args, Turns(connection))


def _ended() -> RuntimeError:
    return RuntimeError("a process that was measured has ended before it was told to; its message is above")
