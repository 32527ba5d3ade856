"""FloatDesign: the products of a design in float32, by kernels compiled for this processor's vectors.

Under the softmax loss every pass is compiled; the one-vs-rest losses run on torch but for their gradients.
"""

import math

from torch import Tensor

from penultimate.engine.probe.kernels.compiled_softmax import CompiledSoftmax
from penultimate.engine.probe.kernels.kernels import CompiledMatrix, Kernels
from penultimate.engine.probe.objective.design import LinearLoss
from penultimate.engine.probe.objective.losses import Loss, Softmax, Targets
from penultimate.engine.probe.objective.rotated_features import RotatedFeatures
from penultimate.engine.probe.objective.torch_design import TorchDesign, TorchLinearLoss

# Shapes: M columns of scores (strengths x classes), D feature dimensions, R columns of the rotated features.

ROUNDING = 2.0**-25
"""Relative rounding error of a weighted mean over samples: of 3,060 to 50,000 rows 0.07 to 0.16 of float32's epsilon,
2^-23, because no sum has more than some hundred terms before it is added to another."""


class FloatDesign:
    """Features with products in float32; float32 on the CPU."""

    def __init__(self, features: RotatedFeatures, kernels: Kernels) -> None:
        self.features, self.low_NR = features, features.matrix_NR
        self._on_torch, self._matrix = TorchDesign(features, None), CompiledMatrix.in_float32(kernels, self.low_NR)

    @property
    def precision(self) -> str:
        """Return the precision of gradients and of Hessian products."""
        return self._on_torch.precision

    @property
    def rounding(self) -> float:
        """Return the relative rounding error of a weighted mean over the samples."""
        return ROUNDING

    def gather(self, values_MN: Tensor, *, exact: bool = False) -> Tensor:
        """Return the weighted mean over samples of value x row, (M, R) float64."""
        if exact:
            return self._on_torch.gather(values_MN, exact=True)
        return self._matrix.gather(*self.features.weighted(values_MN))

    def unrotate(self, weight_MR: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (M, D) and biases (M,) float64 for the original features."""
        return self._on_torch.unrotate(weight_MR)

    def linear_loss(self, loss: Loss, targets: Targets) -> LinearLoss:
        """Return the passes over these features that depend on the loss and the labels."""
        on_torch = TorchLinearLoss(self, loss, targets)
        if isinstance(loss, Softmax):
            weight_N = self.features.sample_weight_N
            return CompiledSoftmax(self._matrix, on_torch, targets, weight_N, longest_step=math.inf)
        return on_torch
