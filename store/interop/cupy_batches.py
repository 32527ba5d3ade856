"""Stream stored features to the GPU as CuPy arrays, batch by batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import UnavailableError
from penultimate.store.feature_set import FeatureSet

# Shapes: B batch, D feature dimensions.


def cupy_batches(
    features: FeatureSet, num_rows: int, *, rows: NDArray[np.int64] | None = None
) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """Stream (rows_B, features_BD) as ``FeatureSet.batches`` does, with features copied to the current CUDA device.

    Features are CuPy arrays (B, D) of the stored dtype, rows NumPy int64. Raises UnavailableError, at the call, where
    CuPy or a GPU is missing.
    """
    try:
        import cupy
    except ImportError as error:
        raise UnavailableError(f"CuPy batches need the package cupy-cuda13x: {error}") from error
    if not cupy.is_available():
        raise UnavailableError("CuPy batches need a CUDA device, and CuPy sees none")
    return ((rows_B, cupy.asarray(features_BD)) for rows_B, features_BD in features.batches(num_rows, rows=rows))
