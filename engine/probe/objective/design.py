"""Design: the products with its features that a problem in memory needs, on any library or processor.

``TorchDesign`` (``torch_design.py``) runs everywhere. ``AmxDesign`` (``kernels/amx_design.py``) runs on x86 processors
with AMX, ``FloatDesign`` (``kernels/float_design.py``) on others for which kernels were compiled. ``make_design`` is
the one place that chooses; nobody else asks which of the three it has.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from penultimate.engine.probe.objective.duality_gap import Moments, Repair
from penultimate.engine.probe.objective.losses import Loss, Targets
from penultimate.engine.probe.objective.problem import HessianHalves
from penultimate.engine.probe.objective.rotated_features import RotatedFeatures

# Shapes: N samples, D feature dimensions, K classes, S strengths, M columns of scores (strengths x classes), R columns
# of the rotated features, X some rows of each class.

ScoreSpace = Callable[[Sequence[float]], tuple[float, Tensor, Tensor]]
"""The mean loss on the affine space through several matrices of scores.

Maps coordinates a to the loss at first + sum_m a_m (other_m - first), its gradient (M,) and its Hessian (M, M) by the
coordinates, float64 on the CPU; here M is the number of the others.
"""


class Design(Protocol):
    """Rotated features with the products that differ between processors."""

    @property
    def features(self) -> RotatedFeatures:
        """Return the features at full precision, with their sample weights."""
        ...

    @property
    def low_NR(self) -> Tensor:
        """Return the features at the precision of Hessian products; ``features`` where there is no lower one."""
        ...

    @property
    def precision(self) -> str:
        """Return the precision of gradients and of Hessian products, such as ``float32/bfloat16``."""
        ...

    @property
    def rounding(self) -> float:
        """Return the relative rounding error of a weighted mean over the samples."""
        ...

    def gather(self, values_MN: Tensor, *, exact: bool = False) -> Tensor:
        """Return the weighted mean over samples of value x row, (M, R) float64.

        ``exact`` multiplies and sums in float64 whatever the dtype of the features.
        """
        ...

    def unrotate(self, weight_MR: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (M, D) and biases (M,) float64 for the original features."""
        ...

    def linear_loss(self, loss: Loss, targets: Targets) -> "LinearLoss":
        """Return the passes over these features that depend on the loss and the labels."""
        ...


class LinearLoss(Protocol):
    """The mean loss of a linear model on one design, as a function of scores."""

    def evaluate(self, scores_SKN: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (S, N) and residuals (S, K, N), the derivatives of the losses by the scores."""
        ...

    def moments(self, residual_SKN: Tensor) -> Moments:
        """Return the sums over samples that a certificate is made from."""
        ...

    def step_scores(self, weight_SKR: Tensor, step_SKR: Tensor) -> Tensor:
        """Return the change of scores (M, N) by a step from ``weight_SKR``; a short step may be rounded more."""
        ...

    def dual_gradient(self, residual_SKN: Tensor, repair: Repair, *, exact: bool) -> Tensor:
        """Return the gradient by the weights at the repaired dual point, (S, K, R) float64."""
        ...

    def hessian_product(self, residual_SKN: Tensor, direction_SKR: Tensor) -> Tensor:
        """Return the Hessian times a direction, (S, K, R), at low precision, centred over classes."""
        ...

    def hessian_halves(self, residual_SKN: Tensor, direction_SKR: Tensor, *, halfway: bool) -> HessianHalves:
        """Return both halves of a Hessian product at full precision, or the first alone."""
        ...

    def score_space(self, first_KN: Tensor, others: Sequence[Tensor]) -> ScoreSpace:
        """Return the loss on the affine space of scores through these points."""
        ...

    def class_rows(self, index_KX: Tensor, inverse_KR: Tensor) -> "ClassRows":
        """Return the rows at ``index_KX`` of each class, with the inverse of a diagonal.

        Those returned before may be overwritten.
        """
        ...


class ClassRows(Protocol):
    """The rows A of each class that carry most of its curvature, with a diagonal D^-1."""

    def gram(self) -> Tensor:
        """Return A D^-1 A' for each class, (K, X, X) float64."""
        ...

    def solve(self, inner_KXX: Tensor, residual_SKR: Tensor) -> Tensor:
        """Return (D^-1 - D^-1 A' inner A D^-1) residual, (S, K, R), in the dtype of the residual."""
        ...
