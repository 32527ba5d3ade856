"""DecodedBatch holds what a decoder returns: pixels with the row each belongs to, and images that failed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

# Shapes: B images of a batch, H x W pixels, C = 3 channels (RGB).

Pixels: TypeAlias = "NDArray[np.uint8] | torch.Tensor"
"""A batch of uint8 images (B, H, W, 3): an array, or a tensor on the device that decoded it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecodedBatch:
    """The images of one batch, resized for each of the requested views and not yet normalised."""

    indices_B: NDArray[np.int64]
    """Position of each image in its ImageSet, which is the row of its feature."""

    views: tuple[Pixels, ...]
    """Pixels (B, H, W, 3) for each Preprocess, in the order of the call."""

    failed: Mapping[int, str]
    """Position in the ImageSet -> reason, for the images of this batch that could not be decoded."""

    def __post_init__(self) -> None:
        for view in self.views:
            uint8 = str(view.dtype) in ("uint8", "torch.uint8")
            if not uint8 or view.ndim != 4 or view.shape[0] != len(self.indices_B) or view.shape[3] != 3:
                raise ValueError(
                    f"a view must be uint8 of shape ({len(self.indices_B)}, H, W, 3), "
                    f"got {view.dtype} of shape {view.shape}"
                )


@dataclass(frozen=True, slots=True)
class Row:
    """One decoded or failed image of a batch to come."""

    index: int
    """Position of the image in its ImageSet."""

    outcome: tuple[NDArray[np.uint8], ...] | str
    """One (H, W, 3) array a view, or the reason why there is none."""


def batched(rows: Iterable[Row], views: Sequence[Preprocess], *, batch_size: int) -> Iterator[DecodedBatch]:
    """Gather rows in their order into batches of ``batch_size`` decoded or failed images (fewer in the last)."""
    remaining = iter(rows)
    while batch := list(islice(remaining, batch_size)):
        decoded = [(row.index, row.outcome) for row in batch if not isinstance(row.outcome, str)]
        arrays = tuple(np.empty((len(decoded), view.height, view.width, 3), np.uint8) for view in views)
        for position, (_, pixels) in enumerate(decoded):
            for array, view_pixels in zip(arrays, pixels, strict=True):
                array[position] = view_pixels
        yield DecodedBatch(
            indices_B=np.array([index for index, _ in decoded], np.int64),
            views=arrays,
            failed={row.index: row.outcome for row in batch if isinstance(row.outcome, str)},
        )
