"""Tar gives access to byte ranges of a tar that is a file or an object of an object store."""

import io
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from typing_extensions import override

from penultimate.engine.images.digest_cache import FileFingerprint
from penultimate.engine.images.formats.file_patterns import expand_braces
from penultimate.store.errors import InputError
from penultimate.store.format.digest import digest_of
from penultimate.store.objects.address import Address
from penultimate.store.objects.open import open_objects

if TYPE_CHECKING:  # it needs the extra `cloud`
    from penultimate.store.objects.remote import RemoteObjects

_READ_AHEAD = 1 << 20
"""Number of bytes of one request while a tar is indexed: several headers, where the members between are small."""


class Tar(Protocol):
    """A tar that several threads may read at once."""

    @property
    def path(self) -> PurePath:
        """Absolute path; tars of one folder have the same parent."""

    def open(self) -> BinaryIO:
        """Open the tar as a file that is read from the beginning, and that can seek."""

    def read(self, offset: int, size: int) -> bytes:
        """Read a range of bytes, fewer of them where the tar ends; raise OSError if the tar is gone."""

    def fingerprint(self) -> FileFingerprint:
        """Return the fingerprint by which the tar is recognised as unchanged; raise OSError if it is gone."""

    def folder(self, shared: PurePath) -> str:
        """Return the location, for people, of the folder ``shared`` that the tar is in."""


class LocalTar(Tar):
    """A tar that is a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    @property
    @override
    def path(self) -> PurePath:
        return self._path.resolve()

    @override
    def open(self) -> BinaryIO:
        return self._path.open("rb")

    @override
    def read(self, offset: int, size: int) -> bytes:
        with self._path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    @override
    def fingerprint(self) -> FileFingerprint:
        return FileFingerprint.of(self._path)

    @override
    def folder(self, shared: PurePath) -> str:
        return str(shared)


class RemoteTar(Tar):
    """A tar that is an object of an object store; its path is made of bucket and key.

    Its methods raise StoreError, as the store does, where the server does not answer.
    """

    def __init__(self, objects: "RemoteObjects", name: str) -> None:
        self._objects = objects
        self._name = name

    def __str__(self) -> str:
        return self._objects.where(self._name)

    @property
    @override
    def path(self) -> PurePath:
        return PurePosixPath("/" + str(self).partition("://")[2])

    @override
    def open(self) -> BinaryIO:
        return io.BufferedReader(_Ranges(self), _READ_AHEAD)

    @override
    def read(self, offset: int, size: int) -> bytes:
        return self._objects.get_range(self._name, offset, size) if size else b""

    def size(self) -> int:
        """Return the number of bytes of the object; raise FileNotFoundError if it is gone."""
        return int(self._head["size"])

    @override
    def fingerprint(self) -> FileFingerprint:
        # The ETag stands for the inode. It changes with the content, so that times would add nothing.
        return FileFingerprint(int(digest_of([self._head["e_tag"], self._head["version"]]), 16) >> 1, self.size(), 0, 0)

    @override
    def folder(self, shared: PurePath) -> str:
        return str(self).partition("://")[0] + "://" + str(shared).lstrip("/")

    @cached_property
    def _head(self) -> Mapping[str, Any]:
        if (head := self._objects.head(self._name)) is None:
            raise FileNotFoundError(f"{self} is gone")
        # This is requested only once: a tar that changes later is noticed by the digests of its images.
        return head


class _Ranges(io.RawIOBase):
    """A raw file whose reads are requests for byte ranges of a RemoteTar."""

    def __init__(self, tar: RemoteTar) -> None:
        super().__init__()
        self._tar = tar
        self._size = tar.size()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # typeshed's Buffer has no length
        size = max(0, min(len(buffer), self._size - self._position))
        content = self._tar.read(self._position, size)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def remote_tars(spec: str) -> tuple[str, Sequence[RemoteTar]]:
    """Return a name for people, and the tars that an address names: one, a brace range, a glob, or all of a folder.

    ``?`` begins the address's options and is no wildcard. Raises InputError where there is no such tar.
    """
    from penultimate.store.objects.remote import RemoteObjects

    plain, _, options = spec.partition("?")
    address = Address.parse(spec)
    objects = open_objects(f"{address.scheme}://{address.bucket}" + (f"?{options}" if options else ""))
    assert isinstance(objects, RemoteObjects), "it is an address"
    names: list[str] = []
    for wanted in expand_braces(plain.split("/", 3)[3] if plain.count("/") > 2 else ""):
        found = _matching(objects, wanted.strip("/"))
        if not found:
            raise InputError(f"no tar at {address.scheme}://{address.bucket}/{wanted}")
        names += found
    stem = PurePosixPath(os.path.commonprefix(names)).stem.rstrip("0123456789-_. ")  # noqa: RUF071 (by character)
    one = len(names) == 1
    return (PurePosixPath(names[0]).stem if one else stem or address.bucket), [
        RemoteTar(objects, name) for name in dict.fromkeys(names)
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
