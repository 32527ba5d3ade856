"""ImageSource is the interface of what gives the bytes or pixels of samples."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.digest_cache import FileFingerprint


class ImageSource(Protocol):
    """A source of the bytes or pixels of samples; several threads may read at once, and it can be pickled."""

    @property
    def location(self) -> str:
        """Unique name of the location of the samples, usually an absolute path; the digest cache goes by it."""

    @property
    def reads_at_once(self) -> int:
        """Number of reads to have in flight: 1 where reading keeps a core busy, many where each waits for a server."""

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Read the encoded file, or the pixels (H, W, 3), of sample ``index``; raise OSError if it is gone."""

    def fingerprint(self, index: int) -> FileFingerprint:
        """Return the fingerprint that recognises sample ``index`` without reading it, or UNKNOWN.

        Raises OSError if the sample is gone.
        """
