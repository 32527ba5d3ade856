"""The three losses of linear probes, as values, residuals and curvature over a block of strengths.

Scores are laid out class-major, (S, K, N), so that both products with the features are wide in N. Each loss returns the
loss of a sample, its derivative by the scores (the residual), and from the residual the product of its second
derivative with a direction. Sample weights are applied by the caller.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Shapes: N samples, K classes, S strengths solved together.


@dataclass(frozen=True, slots=True)
class Targets:
    """Labels as a loss wants them."""

    index_N: Tensor
    """int64 class of each sample; empty for multi-label data."""

    sign_KN: Tensor
    """+1 where the sample has the class, -1 elsewhere; empty for softmax."""

    def rows(self, rows: slice) -> "Targets":
        """The targets of some samples."""
        return Targets(self.index_N[rows], self.sign_KN[:, rows])


class Loss(Protocol):
    """A convex loss of scores; one object for all three, chosen by name from ``LOSSES``."""

    name: str

    smooth: bool
    """Whether its second derivative is continuous; then a class without samples drives its bias to -inf.

    That of the squared hinge jumps where a row passes the margin, and a bias of -1 is enough.
    """

    shared_null: bool
    """Whether scores that rise alike for all classes leave the loss as it is."""

    forcing: float
    """CG stops at this residual relative to its first."""

    def evaluate(self, scores_SKN: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Loss (S, N) and residual (S, K, N), the derivative by the scores, written over ``scores_SKN``."""

    def curve(self, residual_SKN: Tensor, direction_SKN: Tensor, targets: Targets) -> Tensor:
        """Second derivative by the scores times ``direction_SKN``, which may be overwritten."""

    def curvature(self, residual_SKN: Tensor, targets: Targets) -> Tensor:
        """Diagonal of the second derivative, (S, K, N)."""


class Softmax:
    """Multinomial cross-entropy, -log softmax(scores)[label], in nats."""

    name = "softmax"
    smooth = True
    shared_null = True
    forcing = 0.02  # of 0.005 to 0.1 the fastest on Caltech-101, by a twentieth

    def evaluate(self, scores_SKN: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """All from score differences to the true class, so that 1 - p is exact however near p is to 1."""
        index = targets.index_N.expand(scores_SKN.shape[0], 1, -1)
        margin = scores_SKN.sub_(scores_SKN.gather(1, index))
        top = margin.amax(1, keepdim=True)  # >= 0, the true class has margin 0
        others = margin.sub_(top).exp_().scatter_(1, index, 0.0)
        sum_others = others.sum(1, keepdim=True)
        total = sum_others + torch.exp(-top)
        loss = top + torch.log1p(sum_others + torch.expm1(-top))
        residual = others.mul_(1 / total).scatter_(1, index, -sum_others / total)
        return loss[:, 0], residual

    def curve(self, residual_SKN: Tensor, direction_SKN: Tensor, targets: Targets) -> Tensor:
        """(diag(p) - p p^T) u, with u counted from the true class for the same reason."""
        index = targets.index_N.expand(residual_SKN.shape[0], 1, -1)
        mean = (residual_SKN * direction_SKN).sum(
            1, keepdim=True
        )  # residuals sum to 0: the true class needs no taking off
        change = direction_SKN.sub_(direction_SKN.gather(1, index).add_(mean)).mul_(residual_SKN)
        return change.scatter_add_(1, index, -mean)

    def curvature(self, residual_SKN: Tensor, targets: Targets) -> Tensor:
        """p (1 - p) = |r| (1 - |r|), whichever of the two the residual holds."""
        size = residual_SKN.abs()
        return size * (1 - size)


class Logistic:
    """One-vs-rest logistic loss, summed over classes: sum_k log(1 + exp(-sign_k score_k)); labels may be several."""

    name = "logistic"
    smooth = True
    shared_null = False
    forcing = 0.1

    def evaluate(self, scores_SKN: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """-sign * sigmoid(-margin), which keeps its relative precision when the margin is large."""
        margin = scores_SKN.mul_(targets.sign_KN)
        loss = torch.nn.functional.softplus(-margin, threshold=40.0).sum(1)
        return loss, margin.neg_().sigmoid_().mul_(targets.sign_KN).neg_()

    def curve(self, residual_SKN: Tensor, direction_SKN: Tensor, targets: Targets) -> Tensor:
        """p (1 - p) u."""
        return direction_SKN.mul_(self.curvature(residual_SKN, targets))

    def curvature(self, residual_SKN: Tensor, targets: Targets) -> Tensor:
        """p (1 - p) = |r| (1 - |r|)."""
        size = residual_SKN.abs()
        return size * (1 - size)


class SquaredHinge:
    """One-vs-rest squared hinge, summed over classes: sum_k max(0, 1 - sign_k score_k)^2 (a linear SVM)."""

    name = "squared_hinge"
    smooth = False
    shared_null = False
    forcing = 1e-8  # piecewise quadratic: an exact step on the right pieces is the last

    def evaluate(self, scores_SKN: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """-2 sign max(0, 1 - sign score)."""
        slack = scores_SKN.mul_(targets.sign_KN).neg_().add_(1).clamp_min_(0)
        return slack.square().sum(1), slack.mul_(targets.sign_KN).mul_(-2)

    def curve(self, residual_SKN: Tensor, direction_SKN: Tensor, targets: Targets) -> Tensor:
        """Generalised second derivative (Mangasarian 2002): 2 inside the margin, 0 outside."""
        return direction_SKN.mul_(self.curvature(residual_SKN, targets))

    def curvature(self, residual_SKN: Tensor, targets: Targets) -> Tensor:
        """2 where the residual is not zero."""
        return (residual_SKN != 0).to(residual_SKN.dtype).mul_(2)


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (Softmax(), Logistic(), SquaredHinge())}
"""The losses by the name they are asked for."""
