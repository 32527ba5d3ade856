"""Sources of images that are files or pixels in memory, and the one that digests what another source gives."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from penultimate.engine.images.contents import Contents
from penultimate.engine.images.digest_cache import UNKNOWN, FileFingerprint
from penultimate.engine.images.image_source import ImageSource
from penultimate.store.errors import PenultimateError, VanishedImageError
from penultimate.store.format.contents import UNREADABLE, content_of

# Shapes: N samples, H x W pixels, C channels: 1 (grayscale) or 3 (RGB).

_PART_BYTES = 2**20
"""Number of bytes to read at once of a file that grew, or that the kernel gives in parts."""


class FileSource(ImageSource):
    """A source of samples that are files, one each."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        """Take ``paths`` relative to ``root`` (or absolute), in the order of the samples."""
        self.root = root
        self.paths = paths
        self._folder = os.fspath(root)

    @property
    @override
    def location(self) -> str:
        return str(self.root.resolve())

    @property
    @override
    def reads_at_once(self) -> int:
        return 1

    @override
    def read(self, index: int) -> bytes:
        # By four calls of the system instead of seven, each of which gives the interpreter lock away.
        handle = os.open(self._path(index), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read_all(handle)
        finally:
            os.close(handle)

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return FileFingerprint.of(self._path(index))

    def _path(self, index: int) -> str:
        return os.path.join(self._folder, self.paths[index])


def _read_all(handle: int) -> bytes:
    """Return the bytes of an open file from its start, however many there are and the kernel gives at once."""
    size = os.fstat(handle).st_size
    content = os.read(handle, size + 1)
    if len(content) == size:  # fewer than asked for: there are no more
        return content
    parts = [content]
    while content := os.read(handle, _PART_BYTES):
        parts.append(content)
    return b"".join(parts)


class ArraySource(ImageSource):
    """A source of samples that are pixels in memory, or mapped into it; grayscale is repeated three times."""

    def __init__(self, images_NHWC: NDArray[np.uint8], location: str) -> None:
        """Take the images in the order of the samples; ``location`` is the file or folder they come from."""
        self.images_NHWC = images_NHWC
        self._location = location

    @property
    @override
    def location(self) -> str:
        return self._location

    @property
    @override
    def reads_at_once(self) -> int:
        return 1

    @override
    def read(self, index: int) -> NDArray[np.uint8]:
        pixels = self.images_NHWC[index]
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return UNKNOWN  # pixels in memory are digested as fast as looked up


class DigestingSource(ImageSource):
    """The source of an ImageSet: it digests each sample it reads, and raises if that is not what it was before.

    What was before is in the set's Contents, from the digest cache or from an earlier read. Features are kept under
    the digests of their images, so features of any other pixels must not get there.
    """

    def __init__(self, source: ImageSource, ids: Sequence[str], contents: Contents) -> None:
        """Remember in ``contents`` what ``source`` reads; ``ids`` are for messages."""
        self.original = source
        self.contents = contents
        self._ids = ids

    @property
    @override
    def location(self) -> str:
        return self.original.location

    @property
    @override
    def reads_at_once(self) -> int:
        return self.original.reads_at_once

    @override
    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Read sample ``index``; raise VanishedImageError if it was read before and cannot be now, or has changed.

        Raises OSError, which decoding records for this sample alone, if it cannot be read the first time, and ever
        after in this process.
        """
        before = self._settled_fingerprint(index)
        try:
            data = self.original.read(index)
        except PenultimateError:
            raise
        except OSError as error:
            if self.contents.remember(index, UNREADABLE) == UNREADABLE:
                raise
            reason = (error.strerror or str(error)).lower()
            raise VanishedImageError(
                f"{self._ids[index]} in {self.location} was there when its set was digested and cannot be read now: "
                f"{reason}; bring it back and run again to resume (without it the set is another one)"
            ) from error
        content = content_of(data)
        unchanged = before != UNKNOWN and self._fingerprint(index) == before
        known = self.contents.remember(index, content, before if unchanged else UNKNOWN)
        if known == UNREADABLE:
            raise OSError("it could not be read when the set was listed, and can be now: list the set again")
        if known != content:
            raise VanishedImageError(
                f"{self._ids[index]} in {self.location} was changed after its set was digested; "
                "run again to extract the set as it is now"
            )
        return data

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return self.original.fingerprint(index)

    def _settled_fingerprint(self, index: int) -> FileFingerprint:
        """Return the fingerprint under which a content that is still unknown may be cached, UNKNOWN if there is none.

        It must be settled before the read: then a change after it shows.
        """
        if not self.contents.is_sought(index):
            return UNKNOWN
        fingerprint = self._fingerprint(index)
        return fingerprint if fingerprint.is_settled() else UNKNOWN

    def _fingerprint(self, index: int) -> FileFingerprint:
        try:
            return self.original.fingerprint(index)
        except PenultimateError:
            raise
        except OSError:  # reading it says why
            return UNKNOWN
