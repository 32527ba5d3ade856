"""CompiledSoftmax: the mean softmax loss of a linear model with every pass compiled, on whichever kernels there are."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from penultimate.engine.probe.kernels.kernels import CompiledMatrix
from penultimate.engine.probe.objective.design import ScoreSpace
from penultimate.engine.probe.objective.duality_gap import Moments, Repair, softmax_moments
from penultimate.engine.probe.objective.losses import Targets
from penultimate.engine.probe.objective.problem import HessianHalves
from penultimate.engine.probe.objective.torch_design import TorchLinearLoss

# Shapes: N samples, K classes, S strengths, M columns of scores (strengths x classes), R columns of the rotated
# features, X rows of each class.


class CompiledSoftmax:
    """The mean softmax loss of a linear model; ``on_torch`` makes what needs more precision than the kernels have."""

    def __init__(
        self,
        matrix: CompiledMatrix,
        on_torch: TorchLinearLoss,
        targets: Targets,
        sample_weight_N: Tensor | None,
        *,
        longest_step: float,
    ) -> None:
        """``longest_step``, relative to the weights' norm, is that of the largest step whose scores are compiled."""
        self.matrix, self.on_torch, self.longest_step = matrix, on_torch, longest_step
        self.index_N, self.sample_weight_N = targets.index_N, sample_weight_N

    def evaluate(self, scores_SKN: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (S, N) and residuals (S, K, N)."""
        return self.matrix.softmax(scores_SKN, self.index_N)

    def moments(self, residual_SKN: Tensor) -> Moments:
        """Return the sums over samples that a certificate is made from."""
        return softmax_moments(*self.matrix.softmax_moments(residual_SKN, self.index_N, self.sample_weight_N))

    def step_scores(self, weight_SKR: Tensor, step_SKR: Tensor) -> Tensor:
        """Return the change of scores (M, N) by a step, as the kernels multiply where the step is short enough."""
        if step_SKR.norm() > self.longest_step * weight_SKR.norm():
            return self.on_torch.step_scores(weight_SKR, step_SKR)
        return self.matrix.scores(step_SKR.flatten(0, 1))

    def dual_gradient(self, residual_SKN: Tensor, repair: Repair, *, exact: bool) -> Tensor:
        """Return the gradient by the weights at the repaired dual point, (S, K, R) float64."""
        if exact:
            return self.on_torch.dual_gradient(residual_SKN, repair, exact=True)
        return self.matrix.softmax_gradient(residual_SKN, repair.shift_SK, self.index_N, self.sample_weight_N)

    def hessian_product(self, residual_SKN: Tensor, direction_SKR: Tensor) -> Tensor:
        """Return the Hessian times a direction, (S, K, R) float32, at low precision, centred over classes."""
        return self.matrix.softmax_hessian(residual_SKN, self.index_N, self.sample_weight_N, direction_SKR)

    def hessian_halves(self, residual_SKN: Tensor, direction_SKR: Tensor, *, halfway: bool) -> HessianHalves:
        """Return both halves of a Hessian product in float32, or the first alone."""
        inputs = residual_SKN, self.index_N, self.sample_weight_N, direction_SKR
        return HessianHalves(*self.matrix.softmax_halves(*inputs, halfway=halfway))

    def score_space(self, first_KN: Tensor, others: Sequence[Tensor]) -> ScoreSpace:
        """Return the loss on the affine space of scores through these points."""
        return partial(self.matrix.softmax_space, first_KN, others, self.index_N, self.sample_weight_N)

    def class_rows(self, index_KX: Tensor, inverse_KR: Tensor) -> "CompiledClassRows":
        """Return the rows at ``index_KX`` of each class, with the inverse of a diagonal."""
        return CompiledClassRows(self.matrix, index_KX, inverse_KR.float())


class CompiledClassRows:
    """The rows of each class, read from the matrix for the Hessian wherever they are used."""

    def __init__(self, matrix: CompiledMatrix, index_KX: Tensor, inverse_KR: Tensor) -> None:
        self.matrix, self.index_KX, self.inverse_KR = matrix, index_KX, inverse_KR

    def gram(self) -> Tensor:
        """Return A D^-1 A' for each class, (K, X, X) float64."""
        return self.matrix.low_rank_gram(self.index_KX, self.inverse_KR)

    def solve(self, inner_KXX: Tensor, residual_SKR: Tensor) -> Tensor:
        """Return (D^-1 - D^-1 A' inner A D^-1) residual, (S, K, R) float32."""
        return self.matrix.low_rank_solve(self.index_KX, self.inverse_KR, inner_KXX, residual_SKR)
