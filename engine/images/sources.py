"""The plain ImageSources, files and pixels in memory, and the one that watches over any other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.digest_cache import UNKNOWN, FileFingerprint
from penultimate.engine.images.digests import UNREADABLE, content_digest
from penultimate.engine.images.image_set import ImageSource
from penultimate.store.errors import PenultimateError, VanishedImageError

# Shapes: N samples, H x W pixels, C channels: 1 (grayscale) or 3 (RGB).


class FileSource:
    """Samples that are files, one each."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        """``paths`` are relative to ``root`` (or absolute), in the order of the samples."""
        self.root = root
        self.paths = paths

    @property
    def location(self) -> str:
        """See ``ImageSource.location``."""
        return str(self.root.resolve())

    def read(self, index: int) -> bytes:
        """See ``ImageSource.read``."""
        return (self.root / self.paths[index]).read_bytes()

    def fingerprint(self, index: int) -> FileFingerprint:
        """See ``ImageSource.fingerprint``."""
        return FileFingerprint.of(self.root / self.paths[index])


class ArraySource:
    """Samples that are pixels in memory, or mapped into it."""

    def __init__(self, images_NHWC: NDArray[np.uint8], location: str) -> None:
        """In the order of the samples; ``place`` is the file or folder they come from."""
        self.images_NHWC = images_NHWC
        self.location = location

    def read(self, index: int) -> NDArray[np.uint8]:
        """See ``ImageSource.read``; grayscale is repeated three times."""
        pixels = self.images_NHWC[index]
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    def fingerprint(self, index: int) -> FileFingerprint:
        """See ``ImageSource.fingerprint``: pixels in memory are digested as fast as looked up."""
        return UNKNOWN


class VerifiedSource:
    """A source that gives what it gave when its set was digested, or says that it cannot.

    Features are kept under the digest of the set, so that other pixels than those it was made of must not get there.
    """

    def __init__(self, source: ImageSource, ids: Sequence[str], contents_N: NDArray[np.bytes_]) -> None:
        """``contents_N``: the content digest of each sample."""
        self.original = source
        self._ids = ids
        self._contents_N = contents_N

    @property
    def location(self) -> str:
        """See ``ImageSource.location``."""
        return self.original.location

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """As ``ImageSource.read``; VanishedImageError if what was readable is not any more, or is not the same.

        OSError, which decoding records for this sample alone, if it could not be read then either.
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

    def fingerprint(self, index: int) -> FileFingerprint:
        """See ``ImageSource.fingerprint``."""
        return self.original.fingerprint(index)
