"""RemoteTar is a tar in an object store: it is indexed by its headers, and its samples are read by byte range."""

import io
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from typing_extensions import override

from penultimate.engine.images.digest_cache import FileFingerprint
from penultimate.engine.images.formats.file_patterns import expand_braces
from penultimate.engine.images.formats.indexed_file import changed, gone
from penultimate.engine.images.formats.remote_images import READS_AT_ONCE
from penultimate.engine.images.formats.spool import Spool
from penultimate.engine.images.formats.tars import Tar
from penultimate.store.errors import InputError
from penultimate.store.objects.address import Address
from penultimate.store.objects.open import open_objects

if TYPE_CHECKING:  # it needs the extra `cloud`
    from penultimate.store.objects.remote import RemoteObjects

_HEADER_BYTES = 4 << 10
"""Smallest request while a tar is indexed: the headers of a sample's members, and a label between them."""

_BLOCK_BYTES = 4 << 20
"""Largest request while a tar is indexed."""

_SKIP_BYTES = 128 << 10
"""Number of bytes between two headers above which they are not fetched. Skipping them costs a request, some 20 ms,
in which one connection carries a megabyte: a tar of smaller members is sooner read as a whole."""


class _Extent(NamedTuple):
    """A range of a tar that is in the spool."""

    start: int
    size: int
    position: int
    """Where it begins in the spool."""

    @property
    def stop(self) -> int:
        return self.start + self.size


class RemoteTar(Tar):
    """A tar that is an object of an object store; its path is made of bucket and key.

    Its methods raise StoreError, as the store does, where the server does not answer.
    """

    def __init__(self, objects: "RemoteObjects", name: str, spool: Spool) -> None:
        """Take the object ``name``; ``spool`` keeps what is fetched between its headers while it is indexed."""
        self._objects = objects
        self._name = name
        self._spool = spool
        self._extents: list[_Extent] = []
        self._bytes_refused = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_extents": []}

    def __str__(self) -> str:
        return self._objects.where(self._name)

    @property
    @override
    def path(self) -> PurePath:
        return PurePosixPath("/" + str(self).partition("://")[2])

    @override
    def open(self) -> BinaryIO:
        return io.BufferedReader(_Headers(self), 512)  # which only joins what two blocks hold of a header

    @property
    @override
    def reads_at_once(self) -> int:
        return READS_AT_ONCE

    @property
    def bytes_refused(self) -> int:
        """Number of bytes that were fetched for the index, and are fetched again as the spool had no room for them."""
        return self._bytes_refused

    @override
    def read(self, offset: int, size: int) -> bytes:
        kept = self._spooled(offset, offset + size)
        return kept if len(kept) == size else kept + self.fetch(offset + len(kept), size - len(kept))

    def fetch(self, offset: int, size: int) -> bytes:
        """Read a range from the server, as ``read`` does."""
        from penultimate.store.objects.requests import RESPONSES

        size = min(size, self.size() - offset)
        try:
            return self._objects.get_range(self._name, offset, size, e_tag=self._head["e_tag"]) if size > 0 else b""
        except RESPONSES as error:
            is_there = self._objects.exists(self._name)
            raise changed(str(self)) if is_there else gone(str(self), "no such object") from error

    def keep(self, offset: int, content: bytes) -> None:
        """Keep in the spool what was fetched from ``offset`` on, for ``read``, if it lies behind all that is there."""
        last = self._extents[-1] if self._extents else _Extent(0, 0, -1)
        if offset < last.stop:
            return
        if (position := self._spool.append(content)) is None:
            self._bytes_refused += len(content)
        elif offset == last.stop and position == last.position + last.size:
            self._extents[-1] = last._replace(size=last.size + len(content))
        else:
            self._extents.append(_Extent(offset, len(content), position))

    def _spooled(self, start: int, stop: int) -> bytes:
        """Return as much of a range of the tar, from its start on, as is in the spool."""
        parts = []
        number = max(0, bisect_right(self._extents, start, key=lambda extent: extent.start) - 1)
        for extent in self._extents[number:]:
            if not extent.start <= start < min(stop, extent.stop):
                break
            size = min(stop, extent.stop) - start
            parts.append(self._spool.read(extent.position + start - extent.start, size))
            start += size
        return b"".join(parts)

    def size(self) -> int:
        """Return the number of bytes of the object; raise FileNotFoundError if it is gone."""
        return int(self._head["size"])

    @override
    def fingerprint(self) -> FileFingerprint:
        return FileFingerprint.of_object(self._head, self.size())

    @override
    def folder(self, shared: PurePath) -> str:
        return str(self).partition("://")[0] + "://" + str(shared).lstrip("/")

    @cached_property
    def _head(self) -> Mapping[str, Any]:
        """Metadata of the object, requested once: every read demands the ETag it has here."""
        if (head := self._objects.head(self._name)) is None:
            raise FileNotFoundError(f"{self} is gone")
        return head


class _Headers(io.RawIOBase):
    """A raw file that fetches a RemoteTar in blocks, and leaves out large members that a reader seeks past."""

    def __init__(self, tar: RemoteTar) -> None:
        super().__init__()
        self._tar = tar
        self._position = 0
        self._block = b""
        self._block_start = 0
        self._block_bytes = _HEADER_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._tar.size()}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # typeshed's Buffer has no length
        if self._position >= self._tar.size():
            return 0
        if not self._block_start <= self._position < self._block_start + len(self._block):
            self._fetch()
        first = self._position - self._block_start
        content = self._block[first : first + len(buffer)]
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _fetch(self) -> None:
        """Fetch the next block; it begins at the position only if much lies between."""
        end = self._block_start + len(self._block)
        between = self._position - end
        if 0 <= between <= _SKIP_BYTES:
            self._block_start = end
            self._block_bytes = max(min(2 * self._block_bytes, _BLOCK_BYTES), between + _HEADER_BYTES)
        else:
            self._block_start, self._block_bytes = self._position, _HEADER_BYTES
        self._block = self._tar.fetch(self._block_start, self._block_bytes)
        self._tar.keep(self._block_start, self._block)


def remote_tars(spec: str) -> tuple[str, Sequence[RemoteTar]]:
    """Return a name for people, and the tars that an address names: one, a brace range, a glob, or all of a folder.

    ``?`` begins the address's options and is no wildcard. Raises InputError where there is no such tar.
    """
    from penultimate.store.objects.remote import RemoteObjects

    plain, _, options = spec.partition("?")
    address = Address.parse(spec)
    whole = f"{address.scheme}://{address.bucket}" + (f"?{options}" if options else "")
    objects = open_objects(whole)
    assert isinstance(objects, RemoteObjects), "it is an address"
    names: list[str] = []
    for wanted in expand_braces(plain.split("/", 3)[3] if plain.count("/") > 2 else ""):
        found = _matching(objects, wanted.strip("/"))
        if not found:
            raise InputError(
                f"no tar at {address.scheme}://{address.bucket}/{wanted}; images that lie there one by one are named "
                "by a manifest"
            )
        names += found
    stem = PurePosixPath(os.path.commonprefix(names)).stem.rstrip("0123456789-_. ")  # noqa: RUF071 (by character)
    one = len(names) == 1
    spool = Spool()
    return (PurePosixPath(names[0]).stem if one else stem or address.bucket), [
        RemoteTar(objects, name, spool) for name in dict.fromkeys(names)
    ]


def _matching(objects: "RemoteObjects", wanted: str) -> list[str]:
    """List the keys of the tars that are ``wanted``, match it, or lie below it."""
    if not set(wanted) & set("*["):
        if wanted.endswith(".tar"):
            return [wanted] if objects.exists(wanted) else []
        return [name for name in objects.walk(wanted) if name.endswith(".tar")]
    parts = wanted.split("/")
    literal = next(number for number, part in enumerate(parts) if set(part) & set("*["))
    return [
        name
        for name in objects.walk("/".join(parts[:literal]))
        if len(name.split("/")) == len(parts) and all(map(fnmatchcase, name.split("/"), parts))
    ]
