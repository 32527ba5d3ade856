"""Decoder: encoded images in, resized uint8 pixels out. One file a decoder; the names are listed in ``decoders``."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess


class Decoder(Protocol):
    """Decodes chosen images of a set and resizes each for every view, reading each image once."""

    @property
    def name(self) -> str:
        """As in FeatureKey.decoder."""

    def batches(
        self, images: ImageSet, indices: NDArray[np.int64], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:
        """Every index exactly once, in order, as decoded rows or as ``failed`` entries; RGB, no EXIF rotation.

        Memory is bounded by a few batches. An image that cannot be decoded never stops the others.
        """
