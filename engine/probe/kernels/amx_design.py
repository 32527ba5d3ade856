"""AmxDesign: the products of a design on x86 processors with AMX, by compiled kernels.

Features are kept as two bfloat16 besides float32, and gradients run on those, with 16 bits. Under the softmax loss
every pass is compiled; the one-vs-rest losses run on torch but for their gradients.
"""

import math

from torch import Tensor

from penultimate.engine.probe.kernels.compiled_softmax import CompiledSoftmax
from penultimate.engine.probe.kernels.kernels import ROUNDING, CompiledMatrix, Kernels
from penultimate.engine.probe.objective.design import LinearLoss
from penultimate.engine.probe.objective.losses import Loss, Softmax, Targets
from penultimate.engine.probe.objective.rotated_features import TILE, RotatedFeatures
from penultimate.engine.probe.objective.torch_design import TorchLinearLoss, dtype_name, exact_product

# Shapes: N samples, D feature dimensions, M columns of scores (strengths x classes), R columns of the rotated features.

SHORT = 0.25
"""Largest step, relative to the weights' norm, whose scores are rounded to 16 bits.

With that, objectives were within 5e-7 of their weights' own; with float32 scores of all steps within 4e-7, with rounded
scores of all within 2e-6.
"""


class AmxDesign:
    """Features with products on AMX; float32 on the CPU."""

    def __init__(self, features: RotatedFeatures, kernels: Kernels) -> None:
        self.features, self.matrix = features, CompiledMatrix.on_amx(kernels, features.matrix_NR)
        self.low_NR = self.matrix.low_NR
        whole = features.basis.rank % TILE == 0
        self._rotation = CompiledMatrix.on_amx(kernels, features.basis.rotation_DR) if whole else None

    @property
    def precision(self) -> str:
        """Return the precision of gradients and of Hessian products."""
        return f"2xbfloat16/{dtype_name(self.low_NR)}"

    @property
    def rounding(self) -> float:
        """Return the relative rounding error of a weighted mean over samples: each product is rounded on its own."""
        return max(2.0**-23, ROUNDING / math.sqrt(self.features.num_rows))

    def gather(self, values_MN: Tensor, *, exact: bool = False) -> Tensor:
        """Return the weighted mean over samples of value x row, (M, R) float64."""
        weighted_MN, scale = self.features.weighted(values_MN)
        if exact:
            return exact_product(weighted_MN, self.features.matrix_NR) * scale
        return self.matrix.gather(weighted_MN, scale)

    def unrotate(self, weight_MR: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (M, D) and biases (M,) float64 for the original features."""
        basis = self.features.basis
        if self._rotation is None:
            return basis.unrotate(weight_MR)
        weight_MD = self._rotation.scores(weight_MR[:, : basis.rank])
        return weight_MD, basis.unrotated_bias(weight_MR, weight_MD)

    def linear_loss(self, loss: Loss, targets: Targets) -> LinearLoss:
        """Return the passes over these features that depend on the loss and the labels."""
        on_torch = TorchLinearLoss(self, loss, targets)
        if isinstance(loss, Softmax):
            weight_N = self.features.sample_weight_N
            return CompiledSoftmax(self.matrix, on_torch, targets, weight_N, longest_step=SHORT)
        return on_torch
