"""Let one process at a time train in a folder, by a lock that the kernel releases when its holder ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penultimate.store.errors import StoreBusyError


@contextmanager
def locked(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold ``folder/lock`` if ``alone``, which the other processes of a world are not.

    Raises StoreBusyError if another process holds it.
    """
    if not alone:
        yield
        return
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreBusyError(
                f"another process is training in {folder}; wait for it, or divide the grid with --shard I/N"
            ) from error
        yield
