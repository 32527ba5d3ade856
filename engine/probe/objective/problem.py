"""Problem: the passes over the data that a solver needs, and the values they return.

``InMemoryProblem`` keeps features, scores and residuals; ``StreamedProblem`` reads the features again for every pass.
A pass serves all strengths of a block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from penultimate.engine.probe.objective.duality_gap import Moments, Repair
from penultimate.engine.probe.objective.losses import Loss

# Shapes: N samples, K classes, S strengths, R columns of the rotated features.


@dataclass(frozen=True, slots=True)
class Point:
    """Weights with the loss they give."""

    weight_SKR: Tensor
    """Weights in float64, the bias among the columns."""

    loss_S: Tensor
    """Mean loss without the penalty, float64."""

    moments: Moments
    scores_SKN: Tensor | None
    """Scores of all samples; None where they are not kept."""

    residual_SKN: Tensor | None
    """Derivatives of the losses by the scores; None where they are not kept."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients of the mean loss by the weights, (S, K, R) float64, without the penalty."""

    step_SKR: Tensor
    """The right-hand side of Newton's equations: for smooth losses the gradient once the bias has moved."""

    dual_SKR: Tensor
    """The gradient at the repaired dual point: for smooth losses the same tensor."""

    repair: Repair


@dataclass(frozen=True, slots=True)
class HessianHalves:
    """A product with the Hessian of the mean loss, made in two halves."""

    scores_SKN: Tensor
    """Scores of the direction: its product with the features."""

    curvature_S: Tensor
    """Inner product of the direction with its product, float64."""

    product_SKR: Tensor | None
    """The product, centred over classes; None where the second half was left out."""


Line = Callable[[Tensor], tuple[Point, Tensor | None]]
"""The points on a line through the weights.

Maps lengths (S,) to the points there and, unless the loss is smooth, to its slopes (S,) along the line, float64.
"""


class Halves(Protocol):
    """A function that makes a product with the Hessian of the mean loss in two halves."""

    def __call__(self, point: Point, direction_SKR: Tensor, *, halfway: bool) -> HessianHalves:
        """Return both halves, or the first alone."""
        ...


class Problem(Protocol):
    """Features, labels and a loss, seen through passes over the data."""

    penalised_R: Tensor
    """Mask of the penalised columns, float64: 1 for weights, 0 for the bias."""

    mean_square_R: Tensor
    """Mean square of each column, float64."""

    bias_column: int
    rounding: float
    """Relative rounding error of the products."""

    precision: str
    """Precision of gradients and of Hessian products, as a SolveReport prints it."""

    operations_per_column: float
    """Multiplications and additions of a Hessian product for each strength and class."""

    loss: Loss
    passes: float
    """Number of passes so far at full precision; half a pass is one product with the features."""

    curvature_passes: float
    """Number of Hessian products so far."""

    adjust_threads: Callable[[], None]
    """A function to call between two passes, which may change the number of threads."""

    def start(self, weight_SKR: Tensor) -> Point:
        """Evaluate weights."""
        ...

    def rounding_error(self, point: Point) -> Tensor:
        """Return the norm that rounding alone may give the gradients, unless they are ``exact``; float64, ()."""
        ...

    def gradients(self, point: Point, *, exact: bool) -> Gradients:
        """Return the gradients for a step and for a certificate; ``exact`` multiplies in float64."""
        ...

    def hessian_product(self, point: Point, direction_SKR: Tensor, *, exact: bool) -> Tensor:
        """Return the Hessian of the mean loss times a direction, centred over classes.

        ``exact`` multiplies at the precision of gradients.
        """
        ...

    @property
    def products_by_strength(self) -> bool:
        """Return whether a Hessian product leaves out strengths whose direction is zero."""
        ...

    @property
    def halves(self) -> "Halves | None":
        """Return what makes Hessian products in halves, as exact as scores; None where it cannot be had."""
        ...

    def line(self, point: Point, direction_SKR: Tensor, change_SKN: Tensor | None = None) -> Line:
        """Return the line ``weight + length_S * direction``; ``change_SKN`` is the change of scores, if it is known."""
        ...


def keep_threads() -> None:
    """Leave the number of threads as it is."""


def center_over_classes(loss: Loss, values_SKR: Tensor) -> Tensor:
    """Subtract the mean over classes where the loss does not depend on it; return other values as they are.

    In that direction the Hessian of the objective is mu alone: the rounding of a product, let in, would be divided by
    mu and drown the rest of conjugate gradients.
    """
    return values_SKR - values_SKR.mean(1, keepdim=True) if loss.shift_invariant else values_SKR
