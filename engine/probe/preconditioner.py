"""What stands in for the Hessian's inverse in conjugate gradients: a diagonal, or a full matrix a class.

In the eigenbasis of the features, the Hessian's block of class k is sum_i s_i c_ik z_i z_i' + mu, with c the curvature
of the loss. If c did not vary over samples that would be the diagonal c_k * variance + mu. It does vary, and at weak l2
the samples that matter are the few near a boundary: then the true block, inverted, takes a sixth of the iterations (42
to 7 on CIFAR-10 at l2 = 0.06). Making it from all rows costs as much arithmetic as R/2 Hessian products, from a few
rows a column less; it pays where classes are few, products narrow and strengths many, and is kept while it serves.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from penultimate.engine.probe.design import ROWS
from penultimate.engine.probe.problem import InMemory, Point, Problem

# Shapes: N samples, K classes, S strengths, R columns of the turned design.

Apply = Callable[[Tensor], Tensor]

WIDE = 64
"""From this many classes on, a Hessian product runs at the speed of the blocks' own products."""

SERVED = 8
"""Strengths that a block preconditioner is expected to serve."""

STALE = 16.0
"""It is inverted anew once l2 has fallen by this factor."""

RIDGE = 1e-5
"""Added to its unit diagonal, times 10 until it is positive definite: bfloat16 rounding can make it indefinite."""

ROWS_A_COLUMN = 4
"""Rows drawn for it, for each of R columns: 40 took as many Hessian products, and seven times as long to multiply."""


@dataclass(slots=True)
class _Blocks:
    hessian_KRR: Tensor
    inverse_KRR: Tensor
    mu: float


class Preconditioner:
    """Chooses and keeps the preconditioner along a path; a block of strengths shares one, made for the middle of it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.dtype = torch.float64 if problem.rounding < 1e-12 else torch.float32
        """What conjugate gradients work in: their products carry the rounding of bfloat16 or float32 anyway."""

        self.blocks: _Blocks | None = None
        self.fresh_products: int | None = None
        """Hessian products of the first block of strengths the matrices served."""

        self.products = 0
        """Hessian products of the block of strengths solved last: told by the caller."""

    def at(self, point: Point, mu_S: Tensor, *, first: bool) -> Apply:
        """The preconditioner for this point; only at the ``first`` of a strength may it be made anew."""
        middle = float(mu_S.log().mean().exp())
        if first and isinstance(self.problem, InMemory) and self._worth_it(self.problem, point.weight_SKR.shape[1]):
            self._build(self.problem, point, middle)
        if self.blocks is None:
            return self._diagonal(point.moments.curvature_SK, mu_S)
        if first and middle * STALE < self.blocks.mu:
            self._invert(middle)
        inverse_KRR = self.blocks.inverse_KRR.to(self.dtype)

        def apply(residual_SKR: Tensor) -> Tensor:
            return torch.bmm(inverse_KRR, residual_SKR.permute(1, 2, 0)).permute(2, 0, 1)

        return apply

    def _worth_it(self, problem: InMemory, classes: int) -> bool:
        """Whether making it costs less than the Hessian products it saves, all counted at full speed."""
        rows, columns = problem.design.low_NR.shape
        price = columns / 2 * min(1.0, classes / WIDE) * min(1.0, ROWS_A_COLUMN * columns / rows)
        if self.blocks is not None and self.fresh_products is None:
            self.fresh_products = self.products
        wasted = self.products - (self.fresh_products or 0)
        return problem.loss.smooth_bias and problem.design.share_N is None and wasted * SERVED > price

    def _diagonal(self, curvature_SK: Tensor, mu_S: Tensor) -> Apply:
        diagonal = curvature_SK[:, :, None] * self.problem.scale_R + mu_S[:, None, None] * self.problem.penalised_R
        floor = 1e-12 * diagonal.amax(2, keepdim=True)
        inverse = (1 / torch.maximum(diagonal, floor.clamp_min(1e-300))).to(self.dtype)
        return lambda residual_SKR: inverse * residual_SKR

    def _build(self, problem: InMemory, point: Point, mu: float) -> None:
        assert point.residual_SKN is not None
        residual_KN = point.residual_SKN[len(point.residual_SKN) // 2]
        curvature_KN = problem.loss.curvature(residual_KN[None], problem.targets)[0]
        hessian_KRR = torch.stack([_weighted_moment(problem.design.low_NR, share_N) for share_N in curvature_KN])
        self.blocks, self.fresh_products = _Blocks(hessian_KRR, hessian_KRR, mu), None
        self._invert(mu)

    def _invert(self, mu: float) -> None:
        assert self.blocks is not None
        inverses = []
        for hessian_RR in self.blocks.hessian_KRR:
            dtype = hessian_RR.dtype
            matrix = hessian_RR
            matrix = (matrix + matrix.T) / 2 + torch.diag(mu * self.problem.penalised_R).to(dtype)
            root_R = matrix.diagonal().clamp_min(1e-30).sqrt()
            unit = matrix / root_R[:, None] / root_R[None, :]
            inverse = torch.cholesky_inverse(_factor(unit))
            inverses.append(inverse / root_R[:, None] / root_R[None, :])
        self.blocks.inverse_KRR = torch.stack(inverses)
        self.blocks.mu = mu


def _weighted_moment(low_NR: Tensor, weight_N: Tensor) -> Tensor:
    """mean_i weight_i z_i z_i', where there are more than ``ROWS_A_COLUMN`` rows a column from a draw of them.

    Rows are drawn in proportion to their weight, evenly along its sum: all that are drawn count alike, and few near a
    boundary, which carry most of the weight, come often.
    """
    rows, columns = low_NR.shape
    drawn = ROWS_A_COLUMN * columns
    if rows <= drawn:
        return _moment((low_NR * weight_N[:, None]).to(low_NR.dtype), low_NR) / rows
    sum_N = weight_N.double().cumsum(0)
    places = (torch.arange(drawn, device=sum_N.device) + 0.5) * (sum_N[-1] / drawn)
    chosen_MR = low_NR[torch.searchsorted(sum_N, places).clamp_max(rows - 1)]
    return _moment(chosen_MR, chosen_MR) * float(sum_N[-1] / rows / drawn)


def _moment(left_MR: Tensor, right_MR: Tensor) -> Tensor:
    """left.T @ right, float32 over blocks: rounding the sum to bfloat16 would drown its small eigenvalues."""
    dtype = torch.promote_types(left_MR.dtype, torch.float32)
    total_RR = torch.zeros(left_MR.shape[1], right_MR.shape[1], dtype=dtype, device=left_MR.device)
    for start in range(0, len(left_MR), ROWS):
        rows = slice(start, start + ROWS)
        total_RR += left_MR[rows].T @ right_MR[rows]
    return total_RR


def _factor(unit_RR: Tensor) -> Tensor:
    """Cholesky factor of a matrix of unit diagonal plus the smallest ridge that lets it have one."""
    ridge = RIDGE
    while True:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(unit_RR + ridge * torch.eye(len(unit_RR)).to(unit_RR))
        if not failed:
            return factor
        ridge *= 10
