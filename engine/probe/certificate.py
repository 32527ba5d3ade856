"""How far an objective can be from its optimum: the duality gap of a linear model with an unpenalised bias.

With shares s_i (1/N, or sample weights over their sum), mu = l2 / sum of weights and losses f_i of the scores
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
the positives are scaled to balance the negatives', which keeps the signs, and q = sum s_i d_i^2 / 4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from penultimate.engine.probe.design import Design
from penultimate.engine.probe.losses import Loss, Softmax, Targets

# Shapes: N samples, K classes, S strengths, R columns of the turned design.


@dataclass(frozen=True, slots=True)
class Repair:
    """A dual point whose bias gradient is zero."""

    residual_SKN: Tensor
    """r + d, or r where no repair was possible."""

    shift_SK: Tensor
    """c, the Newton step of the bias alone, float64; 0 where no repair was possible and for the squared hinge."""

    excess_S: Tensor
    """q, float64; inf where no repair was possible."""


def repair(design: Design, loss: Loss, targets: Targets, residual_SKN: Tensor) -> Repair:
    """Make the residual a feasible dual point."""
    bias_SK = design.mean(residual_SKN)
    if not loss.smooth_bias:
        return _balance_signs(design, residual_SKN, targets)
    if isinstance(loss, Softmax):
        shift_SK = _simplex_shift(design, residual_SKN, bias_SK, targets)
        spread_S = shift_SK.amax(1) - shift_SK.amin(1)
    else:
        shift_SK = -bias_SK / design.mean(loss.curvature(residual_SKN, targets)).clamp_min(1e-300)
        spread_S = shift_SK.abs().amax(1)
    usable_S = spread_S <= 1
    shift_SK = torch.where(usable_S[:, None], shift_SK, 0.0)
    moves_SKN = shift_SK.to(residual_SKN.dtype)[:, :, None].expand_as(residual_SKN).clone()
    change_SKN = loss.curve(residual_SKN, moves_SKN, targets)
    excess_S = torch.where(usable_S, -(shift_SK * bias_SK).sum(1).clamp_max(0), torch.inf)
    return Repair(change_SKN.add_(residual_SKN), shift_SK, excess_S)


def _simplex_shift(design: Design, residual_SKN: Tensor, bias_SK: Tensor, targets: Targets) -> Tensor:
    """c for softmax: B is the mean of diag(p) - p p^T, a Laplacian, built from its off-diagonal."""
    index = targets.index_N.expand(residual_SKN.shape[0], 1, -1)
    probability = residual_SKN.scatter_add(1, index, torch.ones_like(residual_SKN[:, :1]))
    joint_SKK = (design.shared(probability) @ probability.transpose(1, 2)).double()
    joint_SKK = (joint_SKK + joint_SKK.transpose(1, 2)) / 2
    joint_SKK.diagonal(dim1=1, dim2=2).zero_()
    laplacian = torch.diag_embed(joint_SKK.sum(2)) - joint_SKK
    # Scaled to a unit diagonal, rare classes, whose curvature is tiny, stay above the cut-off; the shift of all biases
    # by one constant, in which B is singular, is left out by adding its projector.
    root_SK = laplacian.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-150)
    null_SK = root_SK / root_SK.norm(dim=1, keepdim=True)
    scaled = laplacian / root_SK[:, :, None] / root_SK[:, None, :] + null_SK[:, :, None] * null_SK[:, None, :]
    shift_SK: Tensor = -torch.linalg.solve(scaled, bias_SK / root_SK) / root_SK
    return shift_SK


def _balance_signs(design: Design, residual_SKN: Tensor, targets: Targets) -> Repair:
    """The positives' residuals times a factor, so that they balance the negatives'."""
    positive_KN = targets.sign_KN > 0
    pull_SK = design.mean(residual_SKN * positive_KN)
    push_SK = design.mean(residual_SKN * ~positive_KN)
    factor_SK = -push_SK / pull_SK.clamp_max(-1e-300)
    scale_SKN = torch.where(positive_KN, factor_SK.to(residual_SKN.dtype)[:, :, None], 1.0)
    repaired_SKN = residual_SKN * scale_SKN
    excess_S = design.mean((repaired_SKN - residual_SKN).square()).sum(1) / 4
    usable_S = torch.isfinite(factor_SK).all(1) & (pull_SK < 0).all(1)
    return Repair(
        torch.where(usable_S[:, None, None], repaired_SKN, residual_SKN),
        torch.zeros_like(pull_SK),
        torch.where(usable_S, excess_S, torch.inf),
    )
