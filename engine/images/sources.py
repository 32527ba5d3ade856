"""The plain ImageSources: files, and pixels in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Shapes: N samples, H x W pixels, C = 3 channels (RGB).


class FileSource:
    """Samples that are files, one each."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        """``paths`` are relative to ``root`` (or absolute), in the order of the samples."""
        self.root = root
        self.paths = paths

    def read(self, index: int) -> bytes:
        """See ``ImageSource.read``."""
        return (self.root / self.paths[index]).read_bytes()


class ArraySource:
    """Samples that are pixels in memory."""

    def __init__(self, images_NHWC: NDArray[np.uint8]) -> None:
        """RGB, in the order of the samples."""
        self.images_NHWC = images_NHWC

    def read(self, index: int) -> NDArray[np.uint8]:
        """See ``ImageSource.read``."""
        pixels: NDArray[np.uint8] = self.images_NHWC[index]
        return pixels
