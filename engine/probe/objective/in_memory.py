"""InMemoryProblem: a problem whose features, scores and residuals are kept, so that a step along a line is no pass."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from penultimate.engine.probe.objective.design import Design, ScoreSpace
from penultimate.engine.probe.objective.duality_gap import repair
from penultimate.engine.probe.objective.losses import Loss, Targets
from penultimate.engine.probe.objective.pieces import pieces
from penultimate.engine.probe.objective.problem import (
    Gradients,
    Halves,
    HessianHalves,
    Line,
    Point,
    center_over_classes,
    keep_threads,
)

# Shapes: N samples, K classes, S strengths, R columns of the rotated features.


class InMemoryProblem:
    """A loss on a design, with the passes over it counted."""

    products_by_strength = False

    def __init__(
        self,
        design: Design,
        loss: Loss,
        targets: Targets,
        *,
        spare_bytes: float = math.inf,
        adjust_threads: Callable[[], None] = keep_threads,
    ) -> None:
        """``spare_bytes`` is the device's memory that a preconditioner may take."""
        self.spare_bytes, self.adjust_threads = spare_bytes, adjust_threads
        self.design, self.features = design, design.features
        self.loss, self.targets = loss, targets
        self.linear_loss = design.linear_loss(loss, targets)
        self.penalised_R = self.features.penalised_R.double()
        self.mean_square_R = self.features.mean_square_R.double()
        self.bias_column, self.dtype = self.features.bias_column, self.features.dtype
        self.precision, self.rounding = design.precision, design.rounding
        self.operations_per_column = 4.0 * self.features.matrix_NR.numel()
        self.passes = 0.0
        self.curvature_passes = 0.0

    def start(self, weight_SKR: Tensor) -> Point:
        """Evaluate weights; half a pass."""
        self.passes += 0.5
        scores_MN = self.features.scores(weight_SKR.flatten(0, 1))
        return self.at(weight_SKR, scores_MN.view(*weight_SKR.shape[:2], -1))

    def step(self, weight_KR: Tensor, scores_KN: Tensor, step_SKR: Tensor) -> Point:
        """Evaluate steps from weights whose scores are known; half a pass."""
        self.passes += 0.5
        change_MN = self.linear_loss.step_scores(weight_KR, step_SKR)
        return self.at(weight_KR + step_SKR, change_MN.view(len(step_SKR), *scores_KN.shape).add_(scores_KN))

    def at(self, weight_SKR: Tensor, scores_SKN: Tensor) -> Point:
        """Evaluate weights whose scores are known; no pass."""
        loss_SN, residual_SKN = self.linear_loss.evaluate(scores_SKN)
        moments = self.linear_loss.moments(residual_SKN)
        return Point(weight_SKR, self.features.mean(loss_SN), moments, scores_SKN, residual_SKN)

    def score_space(self, first_KN: Tensor, others: Sequence[Tensor]) -> ScoreSpace:
        """Return the loss on the affine space of scores through these points; no pass."""
        return self.linear_loss.score_space(first_KN, others)

    def rounding_error(self, point: Point) -> Tensor:
        """Return the norm that rounding alone may give the gradient of the mean loss, float64."""
        assert point.residual_SKN is not None
        return self.rounding * self.features.residual_size(point.residual_SKN) * self.features.root_mean_square

    def gradients(self, point: Point, *, exact: bool) -> Gradients:
        """Return both gradients; ``exact`` multiplies in float64, whatever the dtype of the features.

        Half a pass, or a whole one where the loss is not smooth.
        """
        assert point.residual_SKN is not None
        found = repair(self.loss, point.moments)
        dual_SKR = self.linear_loss.dual_gradient(point.residual_SKN, found, exact=exact)
        step_SKR = dual_SKR if self.loss.smooth else self._gather(point.residual_SKN, exact=exact)
        for gradient_SKR in (step_SKR, dual_SKR):
            gradient_SKR[:, :, self.bias_column] = found.bias_SK
        self.passes += 0.5 if self.loss.smooth else 1
        return Gradients(step_SKR, dual_SKR, found)

    def hessian_product(self, point: Point, direction_SKR: Tensor, *, exact: bool) -> Tensor:
        """Return the Hessian of the mean loss times a direction, centred over classes; one pass."""
        assert point.residual_SKN is not None
        self.curvature_passes += 1
        if exact:
            return self._exact_hessian_product(point.residual_SKN, direction_SKR)
        return self.linear_loss.hessian_product(point.residual_SKN, direction_SKR)

    @property
    def products_in_halves(self) -> bool:
        """Return whether Hessian products, as exact as scores, can be had in halves."""
        return self.loss.smooth and self.design.low_NR is self.features.matrix_NR and not self.design.low_NR.is_cuda

    @property
    def halves(self) -> Halves | None:
        """Return what makes Hessian products in halves; None where they are less exact than scores, or on a GPU."""
        return self.hessian_halves if self.products_in_halves else None

    def hessian_halves(self, point: Point, direction_SKR: Tensor, *, halfway: bool) -> HessianHalves:
        """Return both halves of a Hessian product, one pass, or the first alone, half a pass."""
        assert point.residual_SKN is not None
        self.curvature_passes += 0.5 if halfway else 1
        return self.linear_loss.hessian_halves(point.residual_SKN, direction_SKR, halfway=halfway)

    def line(self, point: Point, direction_SKR: Tensor, change_SKN: Tensor | None = None) -> Line:
        """Return the line ``weight + length_S * direction``; half a pass for all of it, none if the change is known."""
        assert point.scores_SKN is not None
        scores_SKN = point.scores_SKN
        if change_SKN is None:
            change_SKN = self._change(point, direction_SKR)
        # On a GPU the points take the place of the change, a tenth of the memory of ImageNet's size; a second point,
        # which is rare, multiplies again. Slopes need the change itself.
        in_place = self.loss.smooth and scores_SKN.device.type == "cuda"
        changes = [change_SKN]
        del change_SKN

        def evaluate(length_S: Tensor) -> tuple[Point, Tensor | None]:
            length = length_S[:, None, None]
            if not changes:
                changes.append(self._change(point, direction_SKR))
            change_SKN = changes.pop() if in_place else changes[0]
            there_SKN = torch.addcmul(
                scores_SKN, change_SKN, length.to(self.dtype), out=change_SKN if in_place else None
            )
            reached = self.at(torch.addcmul(point.weight_SKR, length, direction_SKR), there_SKN)
            if self.loss.smooth:
                return reached, None
            assert reached.residual_SKN is not None
            return reached, self.features.mean(self._inner_products(reached.residual_SKN, change_SKN))

        return evaluate

    def _change(self, point: Point, direction_SKR: Tensor) -> Tensor:
        """Return the change of scores by a whole step; half a pass."""
        self.passes += 0.5
        change_MN = self.linear_loss.step_scores(point.weight_SKR, direction_SKR)
        return change_MN.view(*direction_SKR.shape[:2], -1)

    def _inner_products(self, one_SKN: Tensor, other_SKN: Tensor) -> Tensor:
        """Return the inner products over classes, (S, N)."""
        strengths, classes, rows = one_SKN.shape
        parts = [
            (one_SKN[:, :, some] * other_SKN[:, :, some]).sum(1)
            for some in pieces(rows, strengths * classes, one_SKN.device)
        ]
        return torch.cat(parts, 1)

    def _gather(self, values_SKN: Tensor, *, exact: bool = False) -> Tensor:
        return self.design.gather(values_SKN.flatten(0, 1), exact=exact).view(*values_SKN.shape[:2], -1)

    def _exact_hessian_product(self, residual_SKN: Tensor, direction_SKR: Tensor) -> Tensor:
        scores_SKN = self.features.scores(direction_SKR.flatten(0, 1)).view_as(residual_SKN)
        change_SKN = self.loss.hessian_product(residual_SKN, scores_SKN, self.targets)
        return center_over_classes(self.loss, self._gather(change_SKN))
