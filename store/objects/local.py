"""LocalObjects: objects that are files of a local folder, written durably and claimed with POSIX locks."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from typing_extensions import override
from zarr.abc.store import Store
from zarr.storage import LocalStore

from penultimate.store.errors import InputError, StoreError
from penultimate.store.objects.claim import Claim, LockClaim
from penultimate.store.objects.durable_files import PARTIAL, DurableFiles, is_partial
from penultimate.store.objects.objects import Content, Objects, parts_of


class LocalObjects(Objects):
    """Objects that are files below a local folder; every write is atomic (a rename)."""

    poll_seconds = 0.05
    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: Store = LocalStore(root)
        self._files = DurableFiles(root)

    @property
    @override
    def address(self) -> str:
        return str(self.root.absolute())

    @property
    @override
    def folder(self) -> Path:
        return self.root

    @override
    def where(self, name: str = "") -> str:
        return str(self.root / name)

    @override
    def errors(self, name: str) -> AbstractContextManager[None]:
        return storage_errors(self.root / name)

    @override
    def is_vacant(self) -> bool:
        with self.errors(""):
            if not self.root.exists():
                return True
            return self.root.is_dir() and all(is_partial(name) for name in os.listdir(self.root))

    @override
    def check_parent(self) -> None:
        parent = self.root.absolute().parent
        with self.errors(""):
            if not parent.is_dir():
                raise InputError(f"cannot make {self.root}: there is no folder {parent}")

    @override
    def prepare(self) -> None:
        self.check_parent()
        with self.errors(""):
            try:
                self.root.mkdir(exist_ok=True)
            except FileNotFoundError as error:  # the parent is there: it is of a file system such as /proc
                raise InputError(f"cannot make {self.root}: {self.root.absolute().parent} takes no folders") from error

    @override
    def get(self, name: str) -> bytes | None:
        with self.errors(name):
            try:
                return (self.root / name).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None

    @override
    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        return [self.get(name) for name in names]

    @override
    def exists(self, name: str) -> bool:
        with self.errors(name):
            return (self.root / name).exists()

    @override
    def lost(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self._is_lost(name)]

    def _is_lost(self, name: str) -> bool:
        with self.errors(name):
            try:
                return (self.root / name).stat().st_size == 0
            except (FileNotFoundError, NotADirectoryError):
                return True

    @override
    def put(self, name: str, content: Content) -> None:
        with self.errors(name):
            self._files.write(self.root / name, parts_of(content))

    @override
    def put_new(self, name: str, content: bytes) -> bool:
        # The caller holds a claim, so that nobody else can put it between the two calls.
        if self.exists(name):
            return False
        self.put(name, content)
        return True

    @override
    def put_many(self, contents: Mapping[str, bytes]) -> None:
        with self.errors(""):
            self._files.write_many({self.root / name: [content] for name, content in contents.items()})

    @override
    def commit(
        self,
        shard: str,
        content: Content,
        record: str,
        document: bytes,
        *,
        is_record: Callable[[bytes], bool],
    ) -> None:
        # The kernel releases a claim when its process ends, so that nobody else can be writing this shard.
        self.put(shard, content)
        self.put(record, document)

    @override
    def records(self, folder: str) -> list[str]:
        return self.names(folder)

    @override
    def names(self, folder: str) -> list[str]:
        with self.errors(folder):
            try:
                return sorted(os.listdir(self.root / folder))
            except (FileNotFoundError, NotADirectoryError):
                return []

    @override
    def folders(self, parent: str) -> list[str]:
        return [name for name in self.names(parent) if (self.root / parent / name).is_dir()]

    @override
    def size(self, name: str) -> int:
        path = self.root / name
        with self.errors(name):
            files = [path] if path.is_file() else path.rglob("*")
            return sum(file.stat().st_size for file in files if file.is_file())

    @override
    def delete(self, name: str) -> None:
        with self.errors(name):
            (self.root / name).unlink(missing_ok=True)

    @override
    def delete_folder(self, folder: str) -> None:
        with self.errors(folder):
            if (self.root / folder).is_dir():
                shutil.rmtree(self.root / folder)

    @override
    def delete_leftovers(self, folder: str) -> None:
        with self.errors(folder):
            for path in (self.root / folder).rglob(f"*{PARTIAL}"):
                path.unlink()

    @override
    def claim(self, lock: str, shards: range) -> Claim:
        with self.errors(lock):
            return LockClaim(self.root / lock, shards)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside this context into one clear line: InputError for a wrong path, else StoreError."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(
                f"{path} cannot be used: {reason}; choose another location or change its permissions"
            ) from error
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InputError(f"{path} cannot be used: {reason}; choose another location") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"{path} could not be written: {reason}; free some space and run again to resume"
            ) from error
        raise StoreError(f"{path} could not be read or written: {reason}; run again to resume") from error
