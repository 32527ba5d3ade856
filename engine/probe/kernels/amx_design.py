"""SoftmaxOnUnits: the in-memory problem of the softmax loss, every pass on a CPU's matrix units."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from penultimate.engine.probe.kernels.kernels import MatrixUnits, softmax, softmax_space
from penultimate.engine.probe.objective.design import Design
from penultimate.engine.probe.objective.duality_gap import Moments, Repair, softmax_moments
from penultimate.engine.probe.objective.in_memory import InMemory, Point, Space
from penultimate.engine.probe.objective.losses import Loss, Softmax, Targets

# Shapes: N samples, K classes, S strengths, R columns of the turned design.

SHORT = 0.25
"""Of the weights' norm. With rounded scores of steps up to this, objectives were within 5e-7 of their weights' own;
with float32 scores of all steps within 4e-7, with rounded scores of all within 2e-6."""


def in_memory(design: Design, loss: Loss, targets: Targets) -> InMemory:
    """The problem, on matrix units where there are some for it."""
    if design.units is not None and isinstance(loss, Softmax):
        return SoftmaxOnUnits(design, design.units, targets)
    return InMemory(design, loss, targets)


class SoftmaxOnUnits(InMemory):
    """Computes what ``InMemory`` does, with the formulas of its softmax, in compiled passes."""

    units: MatrixUnits

    def __init__(self, design: Design, units: MatrixUnits, targets: Targets) -> None:
        super().__init__(design, Softmax(), targets)
        self.units = units

    def evaluate(self, scores_SKN: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (S, N) and residuals (S, K, N) of scores."""
        return softmax(scores_SKN, self.targets.index_N)

    def space(self, first_KN: Tensor, others: Sequence[Tensor]) -> Space:
        """The space of scores through these points: no pass."""
        return partial(softmax_space, first_KN, others, self.targets.index_N, self.design.share_N)

    def hessian(self, point: Point, direction_SKR: Tensor, *, exact: bool) -> Tensor:
        """One pass; never ``exact``, which only the squared hinge asks for."""
        assert point.residual_SKN is not None
        assert not exact
        self.curvature_passes += 1
        return self.units.softmax_hessian(point.residual_SKN, self.targets.index_N, self.design.share_N, direction_SKR)

    def _moved(self, weight_SKR: Tensor, step_SKR: Tensor) -> Tensor:
        """Rounded to 16 bits where the step is short."""
        if step_SKR.norm() > SHORT * weight_SKR.norm():
            return super()._moved(weight_SKR, step_SKR)
        return self.units.scores(step_SKR.flatten(0, 1))

    def _moments(self, residual_SKN: Tensor) -> Moments:
        return softmax_moments(*self.units.softmax_moments(residual_SKN, self.targets.index_N, self.design.share_N))

    def _dual(self, residual_SKN: Tensor, found: Repair, *, exact: bool) -> Tensor:
        if exact:
            return super()._dual(residual_SKN, found, exact=True)
        return self.units.softmax_gradient(residual_SKN, found.shift_SK, self.targets.index_N, self.design.share_N)
