"""RemoteObjects: objects in S3, Google Cloud Storage or Azure, through obstore.

A put is one request, so that an object is there as a whole or not at all. What must not happen twice is decided by
the server: a put may demand that there is no such object (If-None-Match) or that it is still the version that was
seen (If-Match). ``shard_commit`` builds the commit of a shard on these, ``lease`` the claims.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from typing_extensions import override
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from penultimate.store.errors import InputError
from penultimate.store.objects.address import Address
from penultimate.store.objects.claim import Claim
from penultimate.store.objects.client import Client, make_client
from penultimate.store.objects.lease import LeaseClaim
from penultimate.store.objects.objects import Content, Version, Versioned, VersionedObjects, joined
from penultimate.store.objects.requests import Requests
from penultimate.store.objects.retry import USUAL_RETRY, Retry
from penultimate.store.objects.shard_commit import PENDING_BYTES, commit_shard

_AT_ONCE = 32
"""Concurrent requests of ``get_many`` and its like; each takes tens of milliseconds, nearly all of it waiting."""

_PAGE = 1000
"""Number of objects that a server lists in one request."""

_ABSENT = (FileNotFoundError, NotFoundError)


class RemoteObjects(VersionedObjects):
    """Objects below an address, read and written with retries; makes its own connections in every process."""

    poll_seconds = 0.5
    is_local = False

    def __init__(self, address: Address, *, retry: Retry | None = None) -> None:
        retry = retry or USUAL_RETRY
        self._address = address
        self._requests = Requests(address, retry)
        self._client = make_client(address, retry)
        self.store: Store = _RetriedStore(self._client, self._requests)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the address only: another process makes its own connections and finds its own credentials."""
        return RemoteObjects, (self._address,)

    @property
    @override
    def address(self) -> str:
        return str(self._address)

    @property
    @override
    def folder(self) -> Path:
        raise InputError(f"{self.where()} is not a folder of this machine")

    @override
    def where(self, name: str = "") -> str:
        return self._address.below(name)

    @override
    def errors(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()  # ``store`` raises our errors itself

    @override
    def is_vacant(self) -> bool:
        return not self._requests.make("", lambda: next(iter(obstore.list(self._client, chunk_size=1)), []))

    @override
    def check_parent(self) -> None:
        pass  # a bucket has no folders that must exist

    @override
    def prepare(self) -> None:
        pass  # nor any that must be made

    @override
    def get(self, name: str) -> bytes | None:
        return None if (found := self.get_versioned(name)) is None else found.content

    @override
    def get_versioned(self, name: str) -> Versioned | None:
        def request() -> Versioned:
            response = obstore.get(self._client, name)
            return Versioned(bytes(response.bytes()), _version(response.meta))

        try:
            return self._requests.make(name, request)
        except _ABSENT:
            return None

    def get_range(self, name: str, start: int, length: int, *, e_tag: str | None = None) -> bytes:
        """Return up to ``length`` bytes from ``start`` of the object, which must have ``e_tag`` if one is given.

        Raises one of ``requests.RESPONSES`` if the object does not exist (FileNotFoundError) or has another ETag.
        """
        options: Any = {"range": (start, start + length)} | ({"if_match": e_tag} if e_tag else {})
        return self._requests.make(name, lambda: bytes(obstore.get(self._client, name, options=options).bytes()))

    @override
    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="get") as pool:
            return list(pool.map(self.get, names))

    def head(self, name: str) -> Mapping[str, Any] | None:
        """Return ``size``, ``last_modified``, ``e_tag`` and ``version`` of one object, or None if it does not exist."""
        try:
            return self._requests.make(name, lambda: obstore.head(self._client, name))
        except _ABSENT:
            return None

    @override
    def version_of(self, name: str) -> Version | None:
        return None if (head := self.head(name)) is None else _version(head)

    @override
    def exists(self, name: str) -> bool:
        return self.head(name) is not None

    @override
    def lost(self, names: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="head") as pool:
            found = pool.map(self.head, names)
            return [name for name, head in zip(names, found, strict=True) if head is None or head["size"] == 0]

    @override
    def put(self, name: str, content: Content) -> None:
        whole = joined(content)
        self._requests.make(name, lambda: obstore.put(self._client, name, whole, use_multipart=False))

    @override
    def put_new(self, name: str, content: bytes) -> bool:
        return self.put_if(name, content, None) is not None

    @override
    def put_if(self, name: str, content: bytes | memoryview, seen: Version | None) -> Version | None:
        def request() -> Version | None:
            mode: Any = "create" if seen is None else dict(seen)
            try:
                return _version(obstore.put(self._client, name, content, mode=mode, use_multipart=False))
            except (AlreadyExistsError, PreconditionError, *_ABSENT):
                # A put whose response was lost is repeated and refused because of itself, which the content shows.
                there = self.get_versioned(name)
                return there.version if there is not None and there.content == content else None

        return self._requests.make(name, request)

    @override
    def put_many(self, contents: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="put") as pool:
            for _ in pool.map(self.put, contents.keys(), contents.values()):
                pass

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
        commit_shard(self, shard, joined(content), record, document, is_record=is_record)

    @override
    def records(self, folder: str) -> list[str]:
        found = self._listed(folder)["objects"]
        return [_last(meta["path"]) for meta in found if meta["size"] > PENDING_BYTES]

    @override
    def names(self, folder: str) -> list[str]:
        listed = self._listed(folder)
        return sorted(map(_last, [*listed["common_prefixes"], *(found["path"] for found in listed["objects"])]))

    @override
    def folders(self, parent: str) -> list[str]:
        return sorted(map(_last, self._listed(parent)["common_prefixes"]))

    @override
    def size(self, name: str) -> int:
        if (head := self.head(name)) is not None:
            return int(head["size"])
        return sum(int(meta["size"]) for page in self.pages(name) for meta in page)

    def walk(self, folder: str) -> list[str]:
        """Return the sorted names of all objects at any depth below ``folder``."""
        return sorted(meta["path"] for page in self.pages(folder) for meta in page)

    def pages(self, folder: str, *, after: str | None = None) -> Iterator[Sequence[Mapping[str, Any]]]:
        """Yield the metadata of all objects at any depth below ``folder``, one page a request, by increasing name.

        Of each object these are ``path`` (its name) and what ``head`` returns; ``after`` leaves out names up to that
        one. A listing that is interrupted goes on behind the last page.
        """
        stream: Iterator[Sequence[Mapping[str, Any]]] | None = None

        def request() -> Sequence[Mapping[str, Any]]:
            nonlocal stream
            try:
                if stream is None:
                    listed: Any = obstore.list(self._client, folder or None, offset=after, chunk_size=_PAGE)
                    stream = iter(listed)
                return next(stream, ())
            except BaseError:
                stream = None  # it has ended with the error
                raise

        while page := self._requests.make(folder, request):
            yield page
            after = str(page[-1]["path"])

    @override
    def modified(self, folder: str) -> dict[str, datetime]:
        return {_last(found["path"]): found["last_modified"] for found in self._listed(folder)["objects"]}

    @override
    def delete(self, name: str) -> None:
        try:
            self._requests.make(name, lambda: obstore.delete(self._client, name))
        except _ABSENT:
            return  # Google and Azure say so, S3 does not

    @override
    def delete_folder(self, folder: str) -> None:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="delete") as pool:
            for _ in pool.map(self.delete, self.walk(folder)):
                pass

    @override
    def delete_leftovers(self, folder: str) -> None:
        pass  # a killed put leaves nothing, and an abandoned lease is removed by whoever takes it over

    @override
    def claim(self, lock: str, shards: range) -> Claim:
        return LeaseClaim(self, lock, shards)

    def _listed(self, folder: str) -> Any:
        return self._requests.make(folder, lambda: obstore.list_with_delimiter(self._client, folder or None))


class _RetriedStore(ObjectStore[Client]):
    """A read-only Zarr store with our retries and errors."""

    def __init__(self, client: Client, requests: Requests) -> None:
        super().__init__(client, read_only=True)
        self._requests = requests

    @override
    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # Both awaits of the base class, for the headers and for the body, are repeated when the connection breaks.
        read = super().get
        return await self._requests.awaited(key, lambda: read(key, prototype, byte_range))


def _version(meta: Mapping[str, Any]) -> Version:
    return {field: meta[field] for field in ("e_tag", "version") if meta[field] is not None}


def _last(path: str) -> str:
    return path.rpartition("/")[2]
