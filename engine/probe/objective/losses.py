"""The three losses of linear probes, as values, residuals and curvature over a block of strengths.

Scores are laid out class-major, (S, K, N), so that both products with the features are wide in N. Each loss returns the
loss of a sample and its derivative by the scores (the residual), and from the residual the product of its second
derivative by the scores with a direction. Sample weights are applied by the caller.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Shapes: N samples, K classes, S strengths solved together.


@dataclass(frozen=True, slots=True)
class Targets:
    """Labels in the form that a loss reads."""

    index_N: Tensor
    """Class of each sample, int64; empty for the one-vs-rest losses."""

    sign_KN: Tensor
    """+1 where the sample has the class, -1 elsewhere; empty for softmax."""

    def rows(self, rows: slice) -> "Targets":
        """Return the targets of some samples."""
        return Targets(self.index_N[rows], self.sign_KN[:, rows])


class Loss(Protocol):
    """A convex loss of scores; one object for all three, chosen by name from ``LOSSES``."""

    name: str

    smooth: bool
    """True if its second derivative is continuous; then a class without samples drives its bias to -inf.

    The second derivative of the squared hinge jumps where a row passes the margin, and there a bias of -1 is enough.
    """

    shift_invariant: bool
    """True if adding one number to the scores of all classes leaves the loss unchanged."""

    forcing: float
    """Residual, relative to the first, at which conjugate gradients stop."""

    def evaluate(self, scores_SKN: Tensor, targets: Targets, *, out_SKN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return loss (S, N) and residual (S, K, N), the derivative by the scores.

        The residual is written to ``out_SKN``, which may be the scores, or is a new tensor.
        """

    def hessian_product(self, residual_SKN: Tensor, direction_SKN: Tensor, targets: Targets) -> Tensor:
        """Return the second derivative by the scores times ``direction_SKN``, (S, K, N) or (S, K, 1)."""

    def curvature(self, residual_SKN: Tensor, targets: Targets) -> Tensor:
        """Return the diagonal of the second derivative, (S, K, N)."""


class Softmax:
    """Multinomial cross-entropy, -log softmax(scores)[label], in nats."""

    name = "softmax"
    smooth = True
    shift_invariant = True
    forcing = 0.02  # the fastest of 0.005 to 0.1 on Caltech-101, by a twentieth

    def evaluate(self, scores_SKN: Tensor, targets: Targets, *, out_SKN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return loss and residual from score differences.

        1 - p is a sum over the other classes, so that it keeps its relative precision however near p is to 1.
        """
        index = targets.index_N.expand(scores_SKN.shape[0], 1, -1)
        largest = scores_SKN.amax(1, keepdim=True)
        top = largest - scores_SKN.gather(1, index)  # >= 0, and 0 where the true class has the largest score
        others = torch.sub(scores_SKN, largest, out=out_SKN).exp_().scatter_(1, index, 0.0)
        sum_others = others.sum(1, keepdim=True)
        total = sum_others + torch.exp(-top)
        loss = top + torch.log1p(sum_others + torch.expm1(-top))
        residual = others.mul_(1 / total).scatter_(1, index, -sum_others / total)
        return loss[:, 0], residual

    def hessian_product(self, residual_SKN: Tensor, direction_SKN: Tensor, targets: Targets) -> Tensor:
        """Return (diag(p) - p p^T) u, with u taken relative to the true class, whose 1 - p is as precise."""
        index = targets.index_N.expand(residual_SKN.shape[0], 1, -1)
        # Residuals sum to 0 over classes, so that the true class's own u need not be subtracted first.
        mean = (residual_SKN * direction_SKN).sum(1, keepdim=True)
        own = direction_SKN.expand_as(residual_SKN).gather(1, index)
        change = torch.sub(direction_SKN, own.add_(mean)).mul_(residual_SKN)
        return change.scatter_add_(1, index, -mean)

    def curvature(self, residual_SKN: Tensor, targets: Targets) -> Tensor:
        """Return p (1 - p) = |r| (1 - |r|), whether the residual is p or p - 1."""
        size = residual_SKN.abs()
        return size * (1 - size)


class Logistic:
    """One-vs-rest logistic loss, summed over classes: sum_k log(1 + exp(-sign_k score_k)).

    A sample may have several labels.
    """

    name = "logistic"
    smooth = True
    shift_invariant = False
    forcing = 0.1

    def evaluate(self, scores_SKN: Tensor, targets: Targets, *, out_SKN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return loss and residual, -sign * sigmoid(-margin), which is precise when the margin is large."""
        margin = torch.mul(scores_SKN, targets.sign_KN, out=out_SKN)
        loss = torch.nn.functional.softplus(-margin, threshold=40.0).sum(1)
        return loss, margin.neg_().sigmoid_().mul_(targets.sign_KN).neg_()

    def hessian_product(self, residual_SKN: Tensor, direction_SKN: Tensor, targets: Targets) -> Tensor:
        """Return p (1 - p) u."""
        return self.curvature(residual_SKN, targets).mul_(direction_SKN)

    def curvature(self, residual_SKN: Tensor, targets: Targets) -> Tensor:
        """Return p (1 - p) = |r| (1 - |r|)."""
        size = residual_SKN.abs()
        return size * (1 - size)


class SquaredHinge:
    """One-vs-rest squared hinge, summed over classes: sum_k max(0, 1 - sign_k score_k)^2 (a linear SVM)."""

    name = "squared_hinge"
    smooth = False
    shift_invariant = False
    forcing = 1e-8  # piecewise quadratic: an exact step on the right piece is the last one

    def evaluate(self, scores_SKN: Tensor, targets: Targets, *, out_SKN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return loss and residual, -2 sign max(0, 1 - sign score)."""
        slack = torch.mul(scores_SKN, targets.sign_KN, out=out_SKN).neg_().add_(1).clamp_min_(0)
        return slack.square().sum(1), slack.mul_(targets.sign_KN).mul_(-2)

    def hessian_product(self, residual_SKN: Tensor, direction_SKN: Tensor, targets: Targets) -> Tensor:
        """Return the generalised second derivative (Mangasarian 2002) times u: 2 u inside the margin, 0 outside."""
        return self.curvature(residual_SKN, targets).mul_(direction_SKN)

    def curvature(self, residual_SKN: Tensor, targets: Targets) -> Tensor:
        """Return 2 where the residual is not zero."""
        return (residual_SKN != 0).to(residual_SKN.dtype).mul_(2)


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (Softmax(), Logistic(), SquaredHinge())}
"""Name -> loss."""
