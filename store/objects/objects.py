"""Objects: the few things the store asks of the place it lies in, as plain synchronous calls.

Two places know how to answer: a local folder (``LocalObjects``) and an object store (``RemoteObjects``). Everything
above goes through here, so that there is one way of writing features and trials wherever they lie.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

from penultimate.store.errors import CorruptFeaturesError, InputError, PenultimateError, UnavailableError
from penultimate.store.objects.address import Address, is_address
from penultimate.store.objects.claim import Claim


class Objects(ABC):
    """Named pieces of bytes; every write of one is whole or not there, and durable when the call returns.

    Any method may raise StoreError, or InputError where permission lacks; both name the place.
    """

    store: Store
    """What Zarr reads through."""

    poll_seconds: float
    """How long to wait before asking again whether another writer is done."""

    is_local: bool
    """Whether the objects are files of this machine."""

    @property
    @abstractmethod
    def address(self) -> str:
        """What opens the same place again, also in another process."""

    @abstractmethod
    def where(self, name: str = "") -> str:
        """The place of one object, for people."""

    @property
    def folder(self) -> Path:
        """The place as a folder of this machine; InputError where it is none."""
        if not self.is_local:
            raise InputError(f"{self.where()} is no folder")
        return Path(self.where())

    @abstractmethod
    def errors(self, name: str) -> AbstractContextManager[None]:
        """Turns what goes wrong with Zarr's use of ``store`` inside into a StoreError or InputError."""

    @abstractmethod
    def is_vacant(self) -> bool:
        """Whether nothing lies here, so that something may be begun."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the place, if that is needed before the first object; InputError where its parent is not there."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """Content of one object, None if there is none."""

    @abstractmethod
    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """``get`` of each, several at once where waiting is what takes the time."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such an object."""

    @abstractmethod
    def lost(self, names: Sequence[str]) -> list[str]:
        """Those of the objects that are not there, or have no content; asked for several at once, as ``get_many``."""

    @abstractmethod
    def put(self, name: str, content: bytes | memoryview) -> None:
        """Write or replace one object."""

    @abstractmethod
    def put_new(self, name: str, content: bytes) -> bool:
        """Write one object unless there is one; True if this call wrote it."""

    @abstractmethod
    def put_many(self, contents: Mapping[str, bytes]) -> None:
        """``put`` of each, in any order."""

    @abstractmethod
    def commit(
        self,
        shard: str,
        content: bytes | memoryview,
        record: str,
        document: bytes,
        *,
        is_record: Callable[[bytes], bool],
    ) -> None:
        """Write a shard, then its commit record, so that a record never speaks of other bytes than those of its shard.

        ``is_record`` tells a valid record. StoreBusyError if another writer has committed the shard, or is about to.
        """

    @abstractmethod
    def records(self, folder: str) -> list[str]:
        """Names of the records below ``folder`` that ``commit`` has written."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names directly below ``folder``, of objects and folders, sorted; none if there is no such folder."""

    @abstractmethod
    def folders(self, parent: str) -> list[str]:
        """Names of the folders among them."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove one object; nothing happens if there is none."""

    @abstractmethod
    def delete_folder(self, folder: str) -> None:
        """Remove everything below ``folder``."""

    @abstractmethod
    def delete_leftovers(self, folder: str) -> None:
        """Remove what killed writes left below ``folder``."""

    @abstractmethod
    def claim(self, lock: str, shards: range) -> Claim:
        """Sole right to these shards, told apart from others' at the object ``lock``; StoreBusyError if taken."""

    def open_array(self, name: str) -> "zarr.Array[Any]":
        """The array that lies at ``name``, to be read."""
        with self.reading(name):
            return zarr.open_array(self.store, path=name, mode="r")

    def read_array(self, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Values of some rows of the array at ``name``; CorruptFeaturesError where a checksum differs."""
        array = self.open_array(name)
        with self.reading(name, rows):
            return np.asarray(array[rows])

    @contextmanager
    def reading(self, name: str, rows: slice = slice(None)) -> Iterator[None]:
        """What Zarr makes of changed bytes becomes CorruptFeaturesError; what ``errors`` turns, that."""
        try:
            with self.errors(name):
                yield
        except (ValueError, RuntimeError) as error:
            if isinstance(error, PenultimateError):
                raise
            where = "" if rows == slice(None) else f", rows {rows.start} to {rows.stop},"
            raise CorruptFeaturesError(
                f"{self.where(name)}{where} does not hold what was written: {error}; `penultimate store verify` says "
                "what else, `penultimate store rm` removes the key, so that it can be extracted again"
            ) from error


def open_objects(place: str | Path) -> Objects:
    """The objects at a local path, or at an ``s3://``, ``gs://`` or ``az://`` address.

    Raises UnavailableError where the extra ``cloud`` is not installed, InputError for another kind of address.
    """
    if is_address(place):
        address = Address.parse(str(place))
        try:
            from penultimate.store.objects.remote import RemoteObjects
        except ModuleNotFoundError as error:
            raise UnavailableError(
                f"{address.below('')} needs the package {error.name}, which is not installed: "
                "pip install 'penultimate[cloud]'"
            ) from error
        return RemoteObjects(address)
    from penultimate.store.objects.local import LocalObjects

    return LocalObjects(Path(place))
