"""Sources of images that are files or pixels in memory, and one that verifies what another source gives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from penultimate.engine.images.digest_cache import UNKNOWN, FileFingerprint
from penultimate.engine.images.digests import UNREADABLE, content_digest
from penultimate.engine.images.image_set import ImageSource
from penultimate.store.errors import PenultimateError, VanishedImageError

# Shapes: N samples, H x W pixels, C channels: 1 (grayscale) or 3 (RGB).


class FileSource(ImageSource):
    """A source of samples that are files, one each."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        """Take ``paths`` relative to ``root`` (or absolute), in the order of the samples."""
        self.root = root
        self.paths = paths

    @property
    @override
    def location(self) -> str:
        return str(self.root.resolve())

    @override
    def read(self, index: int) -> bytes:
        return (self.root / self.paths[index]).read_bytes()

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return FileFingerprint.of(self.root / self.paths[index])


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

    @override
    def read(self, index: int) -> NDArray[np.uint8]:
        pixels = self.images_NHWC[index]
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return UNKNOWN  # pixels in memory are digested as fast as looked up


class VerifiedSource(ImageSource):
    """A source that returns the same content as when its set was digested, or raises.

    Features are kept under the digest of the set, so features of any other pixels must not get there.
    """

    def __init__(self, source: ImageSource, ids: Sequence[str], contents_N: NDArray[np.bytes_]) -> None:
        """Verify what ``source`` reads against ``contents_N``, the content digest of each sample."""
        self.original = source
        self._ids = ids
        self._contents_N = contents_N

    @property
    @override
    def location(self) -> str:
        return self.original.location

    @override
    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Read sample ``index``; raise VanishedImageError if it cannot be read any more, or has changed.

        Raises OSError, which decoding records for this sample alone, if it could not be read then either.
        """
        if self._contents_N[index] == UNREADABLE:
            self.original.read(index)
            raise OSError("it could not be read when the set was listed, and can be now: list the set again")
        try:
            content = self.original.read(index)
        except PenultimateError:
            raise
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise VanishedImageError(
                f"{self._ids[index]} in {self.location} was there when its set was digested and cannot be read now: "
                f"{reason}; bring it back and run again to resume (without it the set is another one)"
            ) from error
        if content_digest(content) != self._contents_N[index]:
            raise VanishedImageError(
                f"{self._ids[index]} in {self.location} was changed after its set was digested; "
                "run again to extract the set as it is now"
            )
        return content

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return self.original.fingerprint(index)
