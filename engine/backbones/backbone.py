"""Backbone is the interface of a network that turns uint8 images into features, of one readout or several."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.preprocess import Preprocess

# Shapes: B images of a batch, H x W pixels, C = 3 channels, D feature dimensions.


class Identified(Protocol):
    """The properties that tell one backbone's features from another's."""

    @property
    def name(self) -> str:
        """Name for people: timm's ``arch.tag``."""

    @property
    def weights_digest(self) -> str:
        """Digest of the tensors that were loaded."""

    @property
    def preprocess(self) -> Preprocess:
        """Resize, crop and normalisation of its input."""

    @property
    def precision(self) -> str:
        """Precision in which it computes: ``float32``, ``tf32``, ``bfloat16`` or ``float16``."""


class Backbone(Identified, Protocol):
    """A frozen network as a feature extractor."""

    @property
    def feature_dims(self) -> Mapping[str, int]:
        """Number D of features by name of readout, in the order in which they were asked for."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Origin of the weights and how the network was run, as values for JSON; complete after the last image."""

    def embed(self, images_BHWC: Pixels) -> Mapping[str, NDArray[np.float32]]:
        """Return each readout's features (B, D) of RGB images (B, H, W, 3) that are resized, but not yet normalised.

        One pass of the network gives all of them. B may be 0, and several threads may call it at once.
        """
