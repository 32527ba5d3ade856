"""Tar gives access to byte ranges of a tar; here is the one that is a file, ``remote_tars`` has those in buckets."""

import os
from pathlib import Path, PurePath
from typing import BinaryIO, Protocol

from typing_extensions import override

from penultimate.engine.images.digest_cache import FileFingerprint
from penultimate.engine.images.formats.indexed_file import IndexedFile, gone


class Tar(Protocol):
    """A tar that several threads may read at once."""

    @property
    def path(self) -> PurePath:
        """Absolute path; tars of one folder have the same parent."""

    @property
    def reads_at_once(self) -> int:
        """Number of reads to have in flight, as of an ``ImageSource``."""

    def open(self) -> BinaryIO:
        """Open the tar as a file that is read from the beginning, and that can seek."""

    def read(self, offset: int, size: int) -> bytes:
        """Read a range of bytes, fewer of them where the tar ends.

        Raises VanishedImageError if the tar is gone, or is not any more what it was when it was last opened.
        """

    def fingerprint(self) -> FileFingerprint:
        """Return the fingerprint by which the tar is recognised as unchanged; raise OSError if it is gone."""

    def folder(self, shared: PurePath) -> str:
        """Return the location, for people, of the folder ``shared`` that the tar is in."""


class LocalTar(Tar):
    """A tar that is a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: IndexedFile | None = None

    def __str__(self) -> str:
        return str(self._path)

    @property
    @override
    def path(self) -> PurePath:
        return self._path.resolve()

    @property
    @override
    def reads_at_once(self) -> int:
        return 1

    @override
    def open(self) -> BinaryIO:
        self._opened = IndexedFile.of(self._path)
        # Most of a buffer is read for nothing, since behind a header an image is passed over: of photographs of 15 kB
        # 14 % more than the whole tar was read, images included.
        return self._path.open("rb", buffering=0)

    @override
    def read(self, offset: int, size: int) -> bytes:
        assert self._opened is not None, "a tar is indexed before its samples are read"
        try:
            file = self._path.open("rb", buffering=0)
        except OSError as error:
            raise gone(str(self), error.strerror or str(error)) from error
        with file:
            content = os.pread(file.fileno(), size, offset)
            self._opened.check(file.fileno())
            return content

    @override
    def fingerprint(self) -> FileFingerprint:
        return FileFingerprint.of(self._path)

    @override
    def folder(self, shared: PurePath) -> str:
        return str(shared)
