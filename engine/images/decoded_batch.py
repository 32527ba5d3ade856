"""DecodedBatch: what a decoder gives: pixels with the row each belongs to, and what could not be decoded."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Shapes: B images of a batch, H x W pixels, C = 3 channels (RGB).


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecodedBatch:
    """Images of one batch, resized once for each view asked for, not yet normalised."""

    indices_B: NDArray[np.int64]
    """Position of each image in its ImageSet: the row its feature belongs to."""

    views: tuple[NDArray[np.uint8], ...]
    """One (B, H, W, 3) array a Preprocess, in the order asked."""

    failed: Mapping[int, str]
    """Position in the ImageSet -> reason, for images of this batch that could not be decoded."""

    def __post_init__(self) -> None:
        for view in self.views:
            if view.dtype != np.uint8 or view.ndim != 4 or view.shape[0] != len(self.indices_B) or view.shape[3] != 3:
                raise ValueError(
                    f"a view must be uint8 of shape ({len(self.indices_B)}, H, W, 3), "
                    f"got {view.dtype} of shape {view.shape}"
                )
