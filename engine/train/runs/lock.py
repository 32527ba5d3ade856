"""One process a folder: a lock the kernel lets go of when its holder ends, however it ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penultimate.store.errors import StoreBusyError


@contextmanager
def locked(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold ``folder/lock`` if ``alone`` (the other processes of one run do not). StoreBusyError if it is held."""
    if not alone:
        yield
        return
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreBusyError(
                f"another process is training in {folder}; wait for it, or split the grid with --shard i/n"
            ) from error
        yield
