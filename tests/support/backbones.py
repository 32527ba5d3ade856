"""Penultimate features of a backbone, for tests that are of no other readout."""

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.backbone import Backbone
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.store.key import PENULTIMATE


def penultimate(backbone: Backbone, images_BHWC: Pixels) -> NDArray[np.float32]:
    """Return the penultimate features (B, D)."""
    return backbone.embed(images_BHWC)[PENULTIMATE]
