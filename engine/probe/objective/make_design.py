"""Choose the precision of products, and whether torch or compiled kernels make them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from penultimate.engine.probe.kernels.amx_design import AmxDesign
from penultimate.engine.probe.kernels.float_design import FloatDesign
from penultimate.engine.probe.kernels.kernels import amx_kernels, float_kernels
from penultimate.engine.probe.objective.design import Design
from penultimate.engine.probe.objective.losses import Loss
from penultimate.engine.probe.objective.rotated_features import Basis, RotatedFeatures
from penultimate.engine.probe.objective.torch_design import TorchDesign
from penultimate.engine.runtime.capabilities import has_bfloat16_matrix_units

# Shapes: N samples, D feature dimensions.

SMALL = 1 << 20
"""Number of features (N x D) up to which everything runs in float64: it costs milliseconds there."""

SMALL_NONSMOOTH = 1 << 25
"""Number of features up to which gradients of the squared hinge run in float64: its slack falls with l2 below
float32's resolution near 1."""


@dataclass(frozen=True, slots=True)
class ProductPrecision:
    """Dtypes in which features are multiplied."""

    full: torch.dtype
    """Dtype of products for scores and gradients."""

    low: torch.dtype | None
    """Dtype of products for the Hessian; None for that of gradients."""


def make_design(
    features_ND: Tensor,
    *,
    sample_weight_N: Tensor | None,
    precision: ProductPrecision,
    rotate: bool = True,
    like: Basis | None = None,
) -> Design:
    """Rotate the features, as those of ``like`` were, unless they are only to be centred; return their fastest design.

    ``sample_weight_N`` are float64 and sum to 1, or None where all samples count alike. float32 products on a CPU run
    on kernels compiled for it, if there are any: with AMX, where a lower precision was chosen, gradients in 16 bits.
    """
    features = RotatedFeatures(
        features_ND, sample_weight_N=sample_weight_N, dtype=precision.full, rotate=rotate, like=like
    )
    if precision.full == torch.float32 and features.matrix_NR.device.type == "cpu":
        if precision.low is None and (kernels := float_kernels()) is not None:
            return FloatDesign(features, kernels)
        if precision.low is not None and (kernels := amx_kernels()) is not None:
            return AmxDesign(features, kernels)
    return TorchDesign(features, precision.low)


def choose_precision(num_features: int, loss: Loss, device: torch.device) -> ProductPrecision:
    """Return the precision for a matrix of N x D = ``num_features`` numbers on ``device``."""
    if num_features <= SMALL:
        return ProductPrecision(torch.float64, None)
    if not loss.smooth and num_features <= SMALL_NONSMOOTH:
        return ProductPrecision(torch.float64, fast_low_precision(device) or torch.float32)
    return ProductPrecision(torch.float32, fast_low_precision(device))


def fast_low_precision(device: torch.device) -> torch.dtype | None:
    """Return bfloat16 where the device multiplies it in hardware of its own, else None."""
    return torch.bfloat16 if has_bfloat16_matrix_units(device) else None
