"""Objects: the few things the store asks of the place it lies in, as plain synchronous calls on a zarr Store.

Everything but durability and locks goes through zarr's Store interface, so that another place than a local
folder needs another class here and nothing else.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import collect_aiterator, sync
from zarr.storage import LocalStore, MemoryStore

from penultimate.store.errors import CorruptFeaturesError, InputError, PenultimateError, StoreError


class LocalObjects:
    """Objects in a local folder, named by their path below it; every write is atomic (a rename)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: Store = LocalStore(root)

    def get(self, name: str) -> bytes | None:
        """Content of one object, None if there is none."""
        with storage_errors(self.root / name):
            buffer = sync(self.store.get(name, default_buffer_prototype()))
        return None if buffer is None else buffer.to_bytes()

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        with storage_errors(self.root / name):
            return sync(self.store.exists(name))

    def is_empty(self, name: str) -> bool:
        """Whether there is no such object or one without content."""
        with storage_errors(self.root / name):
            return not sync(self.store.exists(name)) or sync(self.store.getsize(name)) == 0

    def put(self, name: str, content: bytes) -> None:
        """Write or replace one object, durably."""
        with storage_errors(self.root / name):
            sync(self.store.set(name, default_buffer_prototype().buffer.from_bytes(content)))
        self.make_durable(name)

    def names(self, folder: str) -> list[str]:
        """Names directly below ``folder``, sorted; none if there is no such folder."""
        with storage_errors(self.root / folder):
            return sorted(collect_aiterator(self.store.list_dir(folder)))

    def delete(self, name: str) -> None:
        """Remove one object; nothing happens if there is none."""
        with storage_errors(self.root / name):
            sync(self.store.delete(name))

    def delete_folder(self, folder: str) -> None:
        """Remove everything below ``folder``."""
        with storage_errors(self.root / folder):
            sync(self.store.delete_dir(folder))

    def create_array(self, name: str, **options: Any) -> "zarr.Array[Any]":
        """A new array, or the one that lies there; unlike ``zarr.create_array``, without its parent groups.

        The presence of a group is what says that a key is complete, so a parent must not come into being here.
        """
        draft = MemoryStore()
        zarr.create_array(draft, **options)
        document = sync(draft.get("zarr.json", default_buffer_prototype()))
        assert document is not None
        self.put(f"{name}/zarr.json", document.to_bytes())
        return self.open_array(name, mode="r+")

    def open_array(self, name: str, *, mode: str = "r") -> "zarr.Array[Any]":
        """The array that lies at ``name``."""
        with reading(self.root / name):
            return zarr.open_array(self.store, path=name, mode=mode, config={"write_empty_chunks": True})

    def read_array(self, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Values of some rows of the array at ``name``; CorruptFeaturesError where a checksum differs."""
        array = self.open_array(name)
        with reading(self.root / name, rows):
            return np.asarray(array[rows])

    def make_durable(self, name: str) -> None:
        """Return once all at or below ``name`` is on the disk, so that what is written later cannot precede it."""
        path = self.root / name
        with storage_errors(path):
            folders = [folder for folder in path.parents if folder.is_relative_to(self.root)]
            for part in (*path.rglob("*"), path, *folders):
                handle = os.open(part, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def delete_leftovers(self, folder: str) -> None:
        """Remove what a killed write left below ``folder``: zarr's LocalStore names it ``*.partial``."""
        with storage_errors(self.root / folder):
            for path in (self.root / folder).rglob("*.partial"):
                path.unlink()


@contextmanager
def reading(path: Path, rows: slice = slice(None)) -> Iterator[None]:
    """What zarr makes of changed bytes becomes CorruptFeaturesError, an OSError what ``storage_errors`` makes of it."""
    try:
        with storage_errors(path):
            yield
    except (ValueError, RuntimeError) as error:
        if isinstance(error, PenultimateError):
            raise
        where = "" if rows == slice(None) else f", rows {rows.start} to {rows.stop},"
        raise CorruptFeaturesError(
            f"{path}{where} does not hold what was written: {error}; `penultimate store verify` says what else, "
            "`penultimate store rm` removes the key, so that it can be extracted again"
        ) from error


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """An OSError of the storage becomes one clear line: InputError where nothing may be written, else StoreError."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(
                f"{path} cannot be used: {reason}; choose another place or change its permissions"
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"{path} could not be written: {reason}; free some space and run again to resume"
            ) from error
        raise StoreError(f"{path} could not be read or written: {reason}; run again to resume") from error
