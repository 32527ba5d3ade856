"""Backbone: uint8 images in, penultimate features out."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.preprocess import Preprocess

# Shapes: B images of a batch, H x W pixels, C = 3 channels, D feature dimensions.


class Identified(Protocol):
    """What tells a backbone's features from another's."""

    @property
    def name(self) -> str:
        """For people: timm's ``arch.tag``."""

    @property
    def weights_digest(self) -> str:
        """Digest of the tensors actually loaded."""

    @property
    def preprocess(self) -> Preprocess:
        """How its input is made."""

    @property
    def precision(self) -> str:
        """What it computes in: ``float32``, ``bfloat16`` or ``float16``."""


class Backbone(Identified, Protocol):
    """A frozen network as a feature extractor."""

    @property
    def feature_dim(self) -> int:
        """D, the width of the penultimate layer."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """JSON-able: where the weights came from, and how the network was run, to be read when all is done."""

    def embed(self, images_BHWC: Pixels) -> NDArray[np.float32]:
        """Penultimate features (B, D) of RGB images already resized to ``preprocess``; normalises them itself.

        B may be 0, and several threads may call it at once.
        """
