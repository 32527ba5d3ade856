"""Bound how far an objective can be from its optimum: the duality gap of a linear model with an unpenalised bias.

With sample weights s_i that sum to 1 (1/N where all count alike), mu = l2 / sum of weights and losses f_i of the scores
z_i = W x_i + b, the primal is P(W, b) = sum s_i f_i(z_i) + mu/2 ||W||^2. By Fenchel duality every choice of a_i with
sum s_i a_i = 0 bounds it from below by D(a) = -sum s_i f_i*(a_i) - ||sum s_i a_i x_i||^2 / (2 mu).

Take a_i = r_i, the residual f_i'(z_i). If the bias gradient is zero then a is feasible, f_i(z_i) + f_i*(r_i) =
z_i . r_i, and the gap P - D comes to ||gradient by W||^2 / (2 mu) exactly. For softmax, r = p - y: the dual point is
the model's own probabilities.

A bias gradient g that is not quite zero is repaired: a_i = r_i + d_i with sum s_i d_i = -g. With B = sum s_i f_i''
and d_i = f_i'' c, B c = -g, the point p + d stays in the simplex while |c_k - mean c| <= 1, and the change of f*
beyond first order, a Kullback-Leibler divergence, is at most its chi-square q = c . B c = -c . g, so that

    gap <= ||sum s_i (r_i + d_i) x_i + mu W||^2 / (2 mu) + q.

The vector in it is also the right-hand side that Newton's equations have once the bias has moved by c: one product
with the features serves both. The squared hinge has f*(a) = -|a| + a^2/4 on the sign of -y: there the residuals of
the positives are scaled to balance the negatives', which keeps the signs, and q = sum s_i d_i^2 / 4; its steps take
the gradient itself.
"""

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from penultimate.engine.probe.objective.losses import Loss, Softmax, Targets

# Shapes: N samples, K classes, S strengths.


class WeightedRows(Protocol):
    """Some samples with their weights: all features, or a block of them."""

    def mean(self, values_XN: Tensor) -> Tensor:
        """Return the sum over these samples (the last axis) of weight times value, float64."""
        ...

    def weighted(self, values_XN: Tensor) -> tuple[Tensor, float]:
        """Return values and a factor whose product is the values times the weight of their sample."""
        ...


@dataclass(frozen=True, slots=True)
class Moments:
    """Weighted sums over samples that a repair is made from, float64; the moments of blocks add up."""

    bias_SK: Tensor
    """Mean residual: the bias gradient."""

    curvature_SK: Tensor
    """Mean diagonal of the loss's second derivative by the scores."""

    joint_SKK: Tensor
    """Softmax: mean of p p^T, its diagonal left out; else empty."""

    positive_SK: Tensor
    """Squared hinge: mean residual of the positives, <= 0; else empty."""

    positive_square_SK: Tensor
    """Squared hinge: mean squared residual of the positives; else empty."""

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Repair:
    """The move of the residuals to a dual point whose bias gradient is zero."""

    shift_SK: Tensor
    """c, the Newton step of the bias alone, float64; 0 where no repair was possible and for the squared hinge."""

    bias_SK: Tensor
    """The bias gradient that remains, float64: 0 where a repair was possible; all of it for the squared hinge."""

    factor_SK: Tensor
    """Factor on the residuals of the positives; 1 except for the squared hinge."""

    excess_S: Tensor
    """q, float64; inf where no repair was possible."""

    def apply(self, loss: Loss, targets: Targets, residual_SKN: Tensor) -> Tensor:
        """Return the repaired residuals r + d as a new tensor."""
        dtype = residual_SKN.dtype
        if not loss.smooth:
            return residual_SKN * torch.where(targets.sign_KN > 0, self.factor_SK.to(dtype)[:, :, None], 1.0)
        return loss.hessian_product(residual_SKN, self.shift_SK.to(dtype)[:, :, None], targets).add_(residual_SKN)


def moments(rows: WeightedRows, loss: Loss, targets: Targets, residual_SKN: Tensor) -> Moments:
    """Return the moments of these samples."""
    if isinstance(loss, Softmax):
        index = targets.index_N.expand(residual_SKN.shape[0], 1, -1)
        probability = residual_SKN.scatter_add(1, index, torch.ones_like(residual_SKN[:, :1]))
        left, scale = rows.weighted(probability)
        return softmax_moments((left @ probability.transpose(1, 2)).double() * scale, rows.mean(residual_SKN))
    curvature_SK = rows.mean(loss.curvature(residual_SKN, targets))
    positive = square = curvature_SK.new_zeros(())
    if not loss.smooth:
        positives_SKN = residual_SKN * (targets.sign_KN > 0)
        positive, square = rows.mean(positives_SKN), rows.mean(positives_SKN.square())
    return Moments(rows.mean(residual_SKN), curvature_SK, curvature_SK.new_zeros(()), positive, square)


def softmax_moments(joint_SKK: Tensor, bias_SK: Tensor) -> Moments:
    """Return the moments of the softmax loss from the means of p p^T, which is written to, and of the residual."""
    joint_SKK.diagonal(dim1=1, dim2=2).zero_()
    empty = bias_SK.new_zeros(())
    # p_k (1 - p_k) is p_k times all the others: nothing cancels.
    curvature_SK = joint_SKK.sum(2)
    return Moments(bias_SK, curvature_SK, joint_SKK, positive_SK=empty, positive_square_SK=empty)


def repair(loss: Loss, found: Moments) -> Repair:
    """Return the move of the residuals to a feasible dual point."""
    if not loss.smooth:
        return _balance_signs(found)
    if isinstance(loss, Softmax):
        shift_SK = _simplex_shift(found.joint_SKK, found.bias_SK)
        range_S = shift_SK.amax(1) - shift_SK.amin(1)
    else:
        shift_SK = -found.bias_SK / found.curvature_SK.clamp_min(1e-300)
        range_S = shift_SK.abs().amax(1)
    usable_S = range_S <= 1
    shift_SK = torch.where(usable_S[:, None], shift_SK, 0.0)
    excess_S = torch.where(usable_S, -(shift_SK * found.bias_SK).sum(1).clamp_max(0), torch.inf)
    remaining_SK = torch.where(usable_S[:, None], 0.0, found.bias_SK)
    return Repair(shift_SK, remaining_SK, torch.ones_like(shift_SK), excess_S)


def _simplex_shift(joint_SKK: Tensor, bias_SK: Tensor) -> Tensor:
    """Return c for softmax: B is the mean of diag(p) - p p^T, a Laplacian, built from its off-diagonal."""
    joint_SKK = (joint_SKK + joint_SKK.transpose(1, 2)) / 2
    laplacian = torch.diag_embed(joint_SKK.sum(2)) - joint_SKK
    # Scaled to a unit diagonal, rare classes, whose curvature is tiny, stay above the cut-off; the shift of all biases
    # by one constant, in which B is singular, is excluded by adding its projector.
    root_SK = laplacian.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-150)
    null_SK = root_SK / root_SK.norm(dim=1, keepdim=True)
    scaled = laplacian / root_SK[:, :, None] / root_SK[:, None, :] + null_SK[:, :, None] * null_SK[:, None, :]
    # Unchecked, for which a GPU would wait: a singular matrix gives numbers that are no usable shift.
    solution_SK, _ = torch.linalg.solve_ex(scaled, bias_SK / root_SK)
    shift_SK: Tensor = -solution_SK / root_SK
    return shift_SK


NEAR_BALANCE = 0.01
"""Largest relative change of the squared hinge's residuals: beyond it the bound says little of progress."""


def _balance_signs(found: Moments) -> Repair:
    """Return the factor on the residuals of the positives that balances those of the negatives."""
    negative_SK = found.bias_SK - found.positive_SK
    factor_SK = -negative_SK / found.positive_SK.clamp_max(-1e-300)
    usable_S = ((factor_SK - 1).abs() <= NEAR_BALANCE).all(1)
    factor_SK = torch.where(usable_S[:, None], factor_SK, 1.0)
    excess_S = ((factor_SK - 1).square() * found.positive_square_SK).sum(1) / 4
    return Repair(torch.zeros_like(factor_SK), found.bias_SK, factor_SK, torch.where(usable_S, excess_S, torch.inf))
