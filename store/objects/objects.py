"""Objects: the few calls through which the store reads and writes its location, as plain synchronous functions.

Two classes implement them: ``LocalObjects`` for a folder and ``RemoteObjects`` for a bucket. Everything above uses this
interface only, so that features and trials are written in one way wherever they lie. ``open_objects`` in ``open``
chooses the class. ``ObjectsContract`` in the tests states what every implementation must do.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from zarr.abc.store import Store

from penultimate.store.objects.claim import Claim

Content = bytes | memoryview | Sequence[bytes | memoryview]
"""The bytes of one object, or the parts that make it, one behind the other, which need not be copied together."""


def parts_of(content: Content) -> Sequence[bytes | memoryview]:
    """Return the parts of a content; one that is a whole is the only part."""
    return [content] if isinstance(content, bytes | memoryview) else content


def joined(content: Content) -> bytes | memoryview:
    """Return a content as a whole, copied only if it comes in parts."""
    return content if isinstance(content, bytes | memoryview) else b"".join(content)


class Objects(Protocol):
    """Named byte strings below one location. A write is complete or absent, and durable when the call returns.

    Names are relative paths with ``/``. Any method may raise StoreError, or InputError where permission is lacking;
    both name the location.
    """

    store: Store
    """The Zarr store through which arrays are read."""

    poll_seconds: float
    """Seconds to wait before asking again whether another writer has finished."""

    is_local: bool
    """True if the objects are files of this machine."""

    @property
    def address(self) -> str:
        """Return the text from which ``open_objects`` opens the same location again, also in another process."""

    @property
    def folder(self) -> Path:
        """Return the location as a folder of this machine; raises InputError for a bucket."""

    def where(self, name: str = "") -> str:
        """Describe the location of one object, for messages."""

    def errors(self, name: str) -> AbstractContextManager[None]:
        """Turn errors of ``store``, when Zarr uses it inside this context, into StoreError or InputError."""

    def is_vacant(self) -> bool:
        """Return whether nothing lies at the location, so that a store or log may be created there.

        An object that is still being written, or that a kill left half written, is not there.
        """

    def check_parent(self) -> None:
        """Raise InputError if the location cannot be created, because the folder that should hold it is absent."""

    def prepare(self) -> None:
        """Create the location if it must exist before its first object; raises what ``check_parent`` raises."""

    def get(self, name: str) -> bytes | None:
        """Return the content of one object, or None if it does not exist."""

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """Return ``get`` of each name, with concurrent requests where latency dominates."""

    def exists(self, name: str) -> bool:
        """Return whether the object exists."""

    def lost(self, names: Sequence[str]) -> list[str]:
        """Return the names, in the given order, whose object does not exist or is empty."""

    def put(self, name: str, content: Content) -> None:
        """Write or replace one object."""

    def put_new(self, name: str, content: bytes) -> bool:
        """Write one object unless it exists; returns whether this call wrote it."""

    def put_many(self, contents: Mapping[str, bytes]) -> None:
        """Write or replace several objects, in any order."""

    def commit(
        self,
        shard: str,
        content: Content,
        record: str,
        document: bytes,
        *,
        is_record: Callable[[bytes], bool],
    ) -> None:
        """Write a shard, then its commit record, so that a record always describes the bytes of its shard.

        ``is_record`` tells whether bytes are a valid record. Several threads may commit different shards at the same
        time. Raises StoreBusyError if another writer has committed the shard or is about to.
        """

    def records(self, folder: str) -> list[str]:
        """Return the names, directly below ``folder``, of the records that ``commit`` has written."""

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of objects and folders directly below ``folder``; none if it does not exist."""

    def folders(self, parent: str) -> list[str]:
        """Return the sorted names of the folders directly below ``parent``."""

    def size(self, name: str) -> int:
        """Return the bytes of one object, or of all objects below a folder; 0 if there is neither."""

    def delete(self, name: str) -> None:
        """Remove one object; does nothing if it does not exist."""

    def delete_folder(self, folder: str) -> None:
        """Remove everything below ``folder``; does nothing if it does not exist."""

    def delete_leftovers(self, folder: str) -> None:
        """Remove what killed writes left below ``folder``."""

    def claim(self, lock: str, shards: range) -> Claim:
        """Claim these shards for one writer, through the object ``lock``; raises StoreBusyError if any is taken."""


Version = Mapping[str, str]
"""Identifies one version of an object by its ``e_tag``, its ``version`` (a generation) or both."""


class Versioned(NamedTuple):
    """The content of an object and the version that was read."""

    content: bytes
    version: Version


class VersionedObjects(Objects, Protocol):
    """Objects of a server that writes on condition, on which leases and commits in a bucket are built."""

    def get_versioned(self, name: str) -> Versioned | None:
        """Return the content of one object and its version, or None if it does not exist."""

    def version_of(self, name: str) -> Version | None:
        """Return the version of one object, or None if it does not exist."""

    def put_if(self, name: str, content: bytes | memoryview, seen: Version | None) -> Version | None:
        """Write an object if it still has the version ``seen``, or is still absent if that is None.

        Returns the new version, or None if the condition did not hold.
        """

    def modified(self, folder: str) -> dict[str, datetime]:
        """Return when each object directly below ``folder`` was last written, by the server's clock."""
