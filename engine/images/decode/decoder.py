"""Decoder is the interface of what turns encoded images into resized uint8 pixels; ``factory`` has them by name."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess


class Decoder(Protocol):
    """Decodes chosen images of a set and resizes each of them for every view, reading each image once."""

    @property
    def name(self) -> str:
        """Name of the decoder, as in ``FeatureKey.decoder``."""

    def batches(
        self, images: ImageSet, indices: Iterable[int], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:
        """Yield every index exactly once, in order, as a decoded row or as an entry of ``failed``.

        Indices are taken as they are needed, at most a few batches or 200 images ahead of what is yielded.
        Pixels are RGB, without EXIF rotation. Memory is bounded by a few batches. An image that cannot be decoded
        never stops the others.
        """
