"""RemoteObjects: objects in S3, Google Cloud Storage or Azure, through obstore.

A put is one request, so that an object is there as a whole or not at all. What must not happen twice is decided by
the server: a put may demand that there is no such object (If-None-Match) or that it is still the version that was
seen (If-Match). A shard is committed in three conditional puts:

    1. its commit record becomes *pending*, with a word of this attempt's own
    2. the shard, on condition that it is as it was before 1
    3. the record itself, on condition that it is still this attempt's pending one

Another writer can take over between any two of them only by making the record pending for itself, after looking at
the shard. If it does so before 2 or 3, then 3 fails here. If our put of the shard arrives late, after the other's,
then 2 fails. Hence the record always speaks of the very bytes of the shard, whatever leases, pauses and clocks do.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from penultimate.store.errors import StoreBusyError
from penultimate.store.objects.address import Address
from penultimate.store.objects.claim import Claim
from penultimate.store.objects.client import Client, make_client
from penultimate.store.objects.lease import LeaseClaim
from penultimate.store.objects.objects import Objects, open_objects
from penultimate.store.objects.requests import Requests
from penultimate.store.objects.retry import USUAL_RETRY, Retry

_AT_ONCE = 32
"""Requests of ``get_many`` and ``put_many`` under way: they take tens of milliseconds, nearly all of it waiting."""

_TAKEOVERS = 5
"""How often a shard that somebody else just wrote is looked at again before this writer gives way."""

_ABSENT = (FileNotFoundError, NotFoundError)

Version = Mapping[str, str]
"""What names one version of an object: its ETag, or generation."""


class Versioned(NamedTuple):
    """Content of an object, and which version that is."""

    content: bytes
    version: Version


class RemoteObjects(Objects):
    """Objects below an address."""

    poll_seconds = 0.5
    is_local = False

    def __init__(self, address: Address, *, retry: Retry | None = None) -> None:
        retry = retry or USUAL_RETRY
        self._address = address
        self._requests = Requests(address, retry)
        self._client = make_client(address, retry)
        self.store: Store = _RetriedStore(self._client, self._requests)

    def __reduce__(self) -> tuple[Any, ...]:
        """Connections are not sent to another process, and neither are credentials: it has its own."""
        return open_objects, (self.address,)

    @property
    def address(self) -> str:
        """See ``Objects.address``."""
        return str(self._address)

    def where(self, name: str = "") -> str:
        """See ``Objects.where``."""
        return self._address.below(name)

    def errors(self, name: str) -> AbstractContextManager[None]:
        """See ``Objects.errors``: ``store`` raises them itself."""
        return nullcontext()

    def is_vacant(self) -> bool:
        """See ``Objects.is_vacant``."""
        return not self._requests.make("", lambda: next(iter(obstore.list(self._client, chunk_size=1)), []))

    def prepare(self) -> None:
        """See ``Objects.prepare``: a bucket has no folders that could be made."""

    def get(self, name: str) -> bytes | None:
        """See ``Objects.get``."""
        return None if (found := self.get_versioned(name)) is None else found.content

    def get_versioned(self, name: str) -> Versioned | None:
        """Content of one object with its version, None if there is none."""

        def ask() -> Versioned:
            answer = obstore.get(self._client, name)
            return Versioned(bytes(answer.bytes()), _version(answer.meta))

        try:
            return self._requests.make(name, ask)
        except _ABSENT:
            return None

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; fewer where the object ends. FileNotFoundError if there is none."""
        return self._requests.make(
            name, lambda: bytes(obstore.get_range(self._client, name, start=start, length=length))
        )

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """See ``Objects.get_many``."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="get") as pool:
            return list(pool.map(self.get, names))

    def head(self, name: str) -> Mapping[str, Any] | None:
        """``size``, ``last_modified``, ``e_tag`` and ``version`` of one object, None if there is none."""
        try:
            return self._requests.make(name, lambda: obstore.head(self._client, name))
        except _ABSENT:
            return None

    def exists(self, name: str) -> bool:
        """See ``Objects.exists``."""
        return self.head(name) is not None

    def lost(self, names: Sequence[str]) -> list[str]:
        """See ``Objects.lost``."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="head") as pool:
            found = pool.map(self.head, names)
            return [name for name, head in zip(names, found, strict=True) if head is None or head["size"] == 0]

    def put(self, name: str, content: bytes | memoryview) -> None:
        """See ``Objects.put``."""
        self._requests.make(name, lambda: obstore.put(self._client, name, content, use_multipart=False))

    def put_new(self, name: str, content: bytes) -> bool:
        """See ``Objects.put_new``."""
        return self.put_if(name, content, None) is not None

    def put_if(self, name: str, content: bytes | memoryview, seen: Version | None) -> Version | None:
        """Write an object if it is still the version ``seen``, or still absent; the new version, or None if it is not.

        A put whose answer was lost is made again and then refused because of itself: the content that is there tells.
        """

        def ask() -> Version | None:
            mode: Any = "create" if seen is None else dict(seen)
            try:
                return _version(obstore.put(self._client, name, content, mode=mode, use_multipart=False))
            except (AlreadyExistsError, PreconditionError, *_ABSENT):
                there = self.get_versioned(name)
                return there.version if there is not None and there.content == content else None

        return self._requests.make(name, ask)

    def put_many(self, contents: Mapping[str, bytes]) -> None:
        """See ``Objects.put_many``."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="put") as pool:
            for _ in pool.map(self.put, contents.keys(), contents.values()):
                pass

    def commit(
        self,
        shard: str,
        content: bytes | memoryview,
        record: str,
        document: bytes,
        *,
        is_record: Callable[[bytes], bool],
    ) -> None:
        """See ``Objects.commit``, and the top of this file for why."""
        seen: Version | None = None  # the usual case needs no look: the conditions of the puts say if it is not so
        pending = self.put_if(record, _pending(), None)
        for _ in range(_TAKEOVERS):
            if pending is not None and self.put_if(shard, content, seen) is not None:
                if self.put_if(record, document, pending) is None:
                    break
                return
            seen = None if (head := self.head(shard)) is None else _version(head)
            if pending is None:
                there = self.get_versioned(record)
                if there is not None and is_record(there.content):
                    break
                pending = self.put_if(record, _pending(), None if there is None else there.version)
            elif (pending := self.put_if(record, _pending(), pending)) is None:
                break
        raise StoreBusyError(
            f"{self.where(shard)} is written by another writer, which took over from this one; run again to go on with "
            "what is left"
        )

    def records(self, folder: str) -> list[str]:
        """See ``Objects.records``: pending ones are shorter than any other."""
        return [_last(found["path"]) for found in self._listed(folder)["objects"] if found["size"] > _PENDING_BYTES]

    def names(self, folder: str) -> list[str]:
        """See ``Objects.names``."""
        listed = self._listed(folder)
        return sorted(map(_last, [*listed["common_prefixes"], *(found["path"] for found in listed["objects"])]))

    def folders(self, parent: str) -> list[str]:
        """See ``Objects.folders``."""
        return sorted(map(_last, self._listed(parent)["common_prefixes"]))

    def walk(self, folder: str) -> list[str]:
        """Names of all objects at any depth below ``folder``, sorted."""
        stream = partial(obstore.list, self._client, folder or None, chunk_size=1000)
        return sorted(meta["path"] for meta in self._requests.make(folder, lambda: stream().collect()))

    def modified(self, folder: str) -> dict[str, datetime]:
        """When each object directly below ``folder`` was last written, by the server's clock."""
        return {_last(found["path"]): found["last_modified"] for found in self._listed(folder)["objects"]}

    def delete(self, name: str) -> None:
        """See ``Objects.delete``."""
        try:
            self._requests.make(name, lambda: obstore.delete(self._client, name))
        except _ABSENT:
            return  # Google and Azure say so, S3 does not

    def delete_folder(self, folder: str) -> None:
        """See ``Objects.delete_folder``."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="delete") as pool:
            for _ in pool.map(self.delete, self.walk(folder)):
                pass

    def delete_leftovers(self, folder: str) -> None:
        """See ``Objects.delete_leftovers``: puts leave nothing, and claims are overcome when they are in the way."""

    def claim(self, lock: str, shards: range) -> Claim:
        """See ``Objects.claim``."""
        return LeaseClaim(self, lock, shards)

    def _listed(self, folder: str) -> Any:
        return self._requests.make(folder, lambda: obstore.list_with_delimiter(self._client, folder or None))


class _RetriedStore(ObjectStore[Client]):
    """What Zarr reads through, with our retries and errors."""

    def __init__(self, client: Client, requests: Requests) -> None:
        super().__init__(client, read_only=True)
        self._requests = requests

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # See ``Store.get``. An answer that breaks off on the way comes in two parts here: both are inside.
        read = super().get
        return await self._requests.awaited(key, lambda: read(key, prototype, byte_range))


def _version(meta: Mapping[str, Any]) -> Version:
    return {field: meta[field] for field in ("e_tag", "version") if meta[field] is not None}


def _pending() -> bytes:
    """A record that is still to come; no two are the same."""
    return b"pending " + uuid4().hex.encode()


_PENDING_BYTES = len(_pending())


def _last(path: str) -> str:
    return path.rpartition("/")[2]
