"""Common data of the tests of probes, and the objective written a second time, without the package."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penultimate.engine.probe.objective.rotated_features import RotatedFeatures
from penultimate.engine.probe.objective.torch_design import TorchDesign

# Shapes: N samples, D feature dimensions, K classes.

Floats = NDArray[np.floating[Any]]


def mixture(
    rows: int = 240, dims: int = 12, classes: int = 4, *, seed: int = 0, apart: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw Gaussian classes that overlap, with features of unequal scale and a mean far from zero."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(classes, size=rows)
    labels_N[:classes] = np.arange(classes)
    centres_KD = apart * rng.normal(size=(classes, dims))
    features_ND = (rng.normal(size=(rows, dims)) + centres_KD[labels_N]) * np.geomspace(3, 0.05, dims) + 2
    return features_ND.astype(np.float32), labels_N


def softmax_objective(
    features_ND: Floats, labels_N: NDArray[Any], weight_KD: Floats, bias_K: Floats, l2: float
) -> float:
    """Return (sum of cross-entropies + l2/2 ||W||^2) / N in float64."""
    weight_KD = weight_KD.astype(np.float64)
    scores_NK = features_ND.astype(np.float64) @ weight_KD.T + bias_K
    scores_NK -= scores_NK.max(1, keepdims=True)
    log_likelihood_N = scores_NK[np.arange(len(labels_N)), labels_N] - np.log(np.exp(scores_NK).sum(1))
    return float((-log_likelihood_N.sum() + l2 / 2 * (weight_KD**2).sum()) / len(labels_N))


def torch_design(features_ND: Floats, sample_weight_N: torch.Tensor | None = None) -> TorchDesign:
    """Return a design in float64."""
    features = torch.from_numpy(features_ND).double()
    return TorchDesign(RotatedFeatures(features, sample_weight_N=sample_weight_N, dtype=torch.float64), None)
