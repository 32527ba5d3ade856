"""LocalObjects: objects that are files of a local folder, through Zarr's LocalStore, with fsync and POSIX locks."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import collect_aiterator, sync
from zarr.storage import LocalStore

from penultimate.store.errors import InputError, StoreError
from penultimate.store.objects.claim import Claim, LockClaim
from penultimate.store.objects.objects import Objects


class LocalObjects(Objects):
    """Objects in a local folder, named by their path below it; every write is atomic (a rename)."""

    poll_seconds = 0.05
    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: Store = LocalStore(root)

    @property
    def address(self) -> str:
        """See ``Objects.address``."""
        return str(self.root.absolute())

    def where(self, name: str = "") -> str:
        """See ``Objects.where``."""
        return str(self.root / name)

    def errors(self, name: str) -> AbstractContextManager[None]:
        """See ``Objects.errors``."""
        return storage_errors(self.root / name)

    def is_vacant(self) -> bool:
        """See ``Objects.is_vacant``."""
        with self.errors(""):
            return not self.root.exists() or (self.root.is_dir() and not any(self.root.iterdir()))

    def prepare(self) -> None:
        """See ``Objects.prepare``."""
        parent = self.root.absolute().parent
        with self.errors(""):
            if not parent.is_dir():
                raise InputError(f"cannot make {self.root}: there is no folder {parent}")
            self.root.mkdir(exist_ok=True)

    def get(self, name: str) -> bytes | None:
        """See ``Objects.get``."""
        if not self.root.is_dir():
            return None  # LocalStore would make it
        with self.errors(name):
            buffer = sync(self.store.get(name, default_buffer_prototype()))
        return None if buffer is None else buffer.to_bytes()

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """See ``Objects.get_many``."""
        return [self.get(name) for name in names]

    def exists(self, name: str) -> bool:
        """See ``Objects.exists``."""
        with self.errors(name):
            return sync(self.store.exists(name))

    def lost(self, names: Sequence[str]) -> list[str]:
        """See ``Objects.lost``."""
        return [name for name in names if self._is_lost(name)]

    def _is_lost(self, name: str) -> bool:
        with self.errors(name):
            return not sync(self.store.exists(name)) or sync(self.store.getsize(name)) == 0

    def put(self, name: str, content: bytes | memoryview) -> None:
        """See ``Objects.put``."""
        with self.errors(name):
            sync(self.store.set(name, default_buffer_prototype().buffer.from_array_like(np.frombuffer(content, "B"))))
        self.make_durable(name)

    def put_new(self, name: str, content: bytes) -> bool:
        """See ``Objects.put_new``; asked under a claim, so that nobody else can put it in between."""
        if self.exists(name):
            return False
        self.put(name, content)
        return True

    def put_many(self, contents: Mapping[str, bytes]) -> None:
        """See ``Objects.put_many``."""
        for name, content in contents.items():
            self.put(name, content)

    def commit(
        self,
        shard: str,
        content: bytes | memoryview,
        record: str,
        document: bytes,
        *,
        is_record: Callable[[bytes], bool],
    ) -> None:
        """See ``Objects.commit``: the kernel ends a claim with its process, so that nobody else can be writing here."""
        self.put(shard, content)
        self.put(record, document)

    def records(self, folder: str) -> list[str]:
        """See ``Objects.records``."""
        return self.names(folder)

    def names(self, folder: str) -> list[str]:
        """See ``Objects.names``."""
        with self.errors(folder):
            return sorted(collect_aiterator(self.store.list_dir(folder)))

    def folders(self, parent: str) -> list[str]:
        """See ``Objects.folders``."""
        return [name for name in self.names(parent) if (self.root / parent / name).is_dir()]

    def delete(self, name: str) -> None:
        """See ``Objects.delete``."""
        with self.errors(name):
            sync(self.store.delete(name))

    def delete_folder(self, folder: str) -> None:
        """See ``Objects.delete_folder``."""
        with self.errors(folder):
            sync(self.store.delete_dir(folder))

    def make_durable(self, name: str) -> None:
        """Return once the object and the folders it is in are on the disk, so that nothing later precedes it."""
        path = self.root / name
        with storage_errors(path):
            for part in (path, *(folder for folder in path.parents if folder.is_relative_to(self.root))):
                handle = os.open(part, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def delete_leftovers(self, folder: str) -> None:
        """See ``Objects.delete_leftovers``: zarr's LocalStore names a file that is being written ``*.partial``."""
        with self.errors(folder):
            for path in (self.root / folder).rglob("*.partial"):
                path.unlink()

    def claim(self, lock: str, shards: range) -> Claim:
        """See ``Objects.claim``."""
        with self.errors(lock):
            return LockClaim(self.root / lock, shards)


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
