"""AmxDesign: the products of a design on x86 processors with AMX, by compiled kernels.

Features are kept as two bfloat16 besides float32, and gradients run on those, with 16 bits. Under the softmax loss
every pass is compiled; the one-vs-rest losses run on torch but for their gradients.
"""

import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from penultimate.engine.probe.kernels.kernels import ROUNDING, AmxMatrix, softmax, softmax_space
from penultimate.engine.probe.objective.design import LinearLoss, ScoreSpace
from penultimate.engine.probe.objective.duality_gap import Moments, Repair, softmax_moments
from penultimate.engine.probe.objective.losses import Loss, Softmax, Targets
from penultimate.engine.probe.objective.rotated_features import TILE, RotatedFeatures
from penultimate.engine.probe.objective.torch_design import TorchLinearLoss, dtype_name, exact_product

# Shapes: N samples, D feature dimensions, K classes, S strengths, M columns of scores (strengths x classes), R columns
# of the rotated features, X rows of each class.

SHORT = 0.25
"""Largest step, relative to the weights' norm, whose scores are rounded to 16 bits.

With that, objectives were within 5e-7 of their weights' own; with float32 scores of all steps within 4e-7, with rounded
scores of all within 2e-6.
"""


class AmxDesign:
    """Features with products on AMX; float32 on the CPU, and there must be a ``library``."""

    def __init__(self, features: RotatedFeatures) -> None:
        self.features, self.matrix = features, AmxMatrix(features.matrix_NR)
        self.low_NR = self.matrix.high_NR
        rotation_DR = features.basis.rotation_DR
        self._rotation = AmxMatrix(rotation_DR) if features.basis.rank % TILE == 0 else None

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
            return AmxSoftmax(self.matrix, on_torch, targets, self.features.sample_weight_N)
        return on_torch


class AmxSoftmax:
    """The mean softmax loss of a linear model, every pass compiled; ``on_torch`` makes what needs more than 16 bits."""

    def __init__(
        self, matrix: AmxMatrix, on_torch: TorchLinearLoss, targets: Targets, sample_weight_N: Tensor | None
    ) -> None:
        self.matrix, self.on_torch = matrix, on_torch
        self.index_N, self.sample_weight_N = targets.index_N, sample_weight_N

    def evaluate(self, scores_SKN: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (S, N) and residuals (S, K, N)."""
        return softmax(scores_SKN, self.index_N)

    def moments(self, residual_SKN: Tensor) -> Moments:
        """Return the sums over samples that a certificate is made from."""
        return softmax_moments(*self.matrix.softmax_moments(residual_SKN, self.index_N, self.sample_weight_N))

    def step_scores(self, weight_SKR: Tensor, step_SKR: Tensor) -> Tensor:
        """Return the change of scores (M, N) by a step, rounded to 16 bits where the step is short."""
        if step_SKR.norm() > SHORT * weight_SKR.norm():
            return self.on_torch.step_scores(weight_SKR, step_SKR)
        return self.matrix.scores(step_SKR.flatten(0, 1))

    def dual_gradient(self, residual_SKN: Tensor, repair: Repair, *, exact: bool) -> Tensor:
        """Return the gradient by the weights at the repaired dual point, (S, K, R) float64."""
        if exact:
            return self.on_torch.dual_gradient(residual_SKN, repair, exact=True)
        return self.matrix.softmax_gradient(residual_SKN, repair.shift_SK, self.index_N, self.sample_weight_N)

    def hessian_product(self, residual_SKN: Tensor, direction_SKR: Tensor) -> Tensor:
        """Return the Hessian times a direction, (S, K, R) float32, multiplied in bfloat16, centred over classes."""
        return self.matrix.softmax_hessian(residual_SKN, self.index_N, self.sample_weight_N, direction_SKR)

    def score_space(self, first_KN: Tensor, others: Sequence[Tensor]) -> ScoreSpace:
        """Return the loss on the affine space of scores through these points."""
        return partial(softmax_space, first_KN, others, self.index_N, self.sample_weight_N)

    def class_rows(self, index_KX: Tensor, inverse_KR: Tensor) -> "AmxClassRows":
        """Return the rows at ``index_KX`` of each class, with the inverse of a diagonal."""
        return AmxClassRows(self.matrix, index_KX, inverse_KR.float())


class AmxClassRows:
    """The rows of each class, read from the matrix in bfloat16 wherever they are used."""

    def __init__(self, matrix: AmxMatrix, index_KX: Tensor, inverse_KR: Tensor) -> None:
        self.matrix, self.index_KX, self.inverse_KR = matrix, index_KX, inverse_KR

    def gram(self) -> Tensor:
        """Return A D^-1 A' for each class, (K, X, X) float64."""
        return self.matrix.low_rank_gram(self.index_KX, self.inverse_KR)

    def solve(self, inner_KXX: Tensor, residual_SKR: Tensor) -> Tensor:
        """Return (D^-1 - D^-1 A' inner A D^-1) residual, (S, K, R) float32."""
        return self.matrix.low_rank_solve(self.index_KX, self.inverse_KR, inner_KXX, residual_SKR)
