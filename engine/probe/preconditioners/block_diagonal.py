"""The Hessian's block of every class as a full matrix, inverted: what serves best where classes are few."""

import torch
from torch import Tensor

from penultimate.engine.probe.objective.design import ROWS, WIDE
from penultimate.engine.probe.objective.in_memory import InMemory
from penultimate.engine.probe.preconditioners.ridged_inverse import ridged_inverse

# Shapes: N samples, K classes, S strengths, R columns of the turned design.

STALE = 16.0
"""Matrices are inverted anew once l2 has fallen by this factor."""

RIDGE = 1e-5
"""Added to their unit diagonal: bfloat16 rounding can make a matrix indefinite."""

ROWS_A_COLUMN = 4
"""Rows drawn for a matrix, for each of R columns: 40 took as many products, and seven times as long to multiply."""

READING = 50
"""Rows of features whose Hessian product takes as long as reading a row of each class's matrix, of many classes."""


class ClassMatrices:
    """mean_i c_ik z_i z_i' + mu for each class k, c the curvature of the loss; drawn from some of the rows."""

    def __init__(self, problem: InMemory, curvature_KN: Tensor, mu: float) -> None:
        self.penalised_R = problem.penalised_R
        self.hessian_KRR = torch.stack([_weighted_moment(problem.design.low_NR, share_N) for share_N in curvature_KN])
        self._invert(mu)

    @staticmethod
    def suit(problem: InMemory, classes: int) -> bool:
        """Whether they are applied faster than half a Hessian product takes."""
        rows, columns = problem.design.low_NR.shape
        return problem.design.share_N is None and READING * columns * min(1.0, classes / WIDE) < rows / 2

    @staticmethod
    def price(problem: InMemory, classes: int) -> float:
        """Hessian products that take as long as making them, all counted at full speed."""
        rows, columns = problem.design.low_NR.shape
        return columns / 2 * min(1.0, classes / WIDE) * min(1.0, ROWS_A_COLUMN * columns / rows)

    def follow(self, mu: float) -> None:
        """Along the path, where l2 has fallen far."""
        if mu * STALE < self.mu:
            self._invert(mu)

    def __call__(self, residual_SKR: Tensor) -> Tensor:
        """Its inverse times the residual."""
        inverse_KRR = self.inverse_KRR.to(residual_SKR.dtype)
        return torch.bmm(inverse_KRR, residual_SKR.permute(1, 2, 0)).permute(2, 0, 1)

    def _invert(self, mu: float) -> None:
        inverses = []
        for hessian_RR in self.hessian_KRR:
            symmetric_RR = (hessian_RR + hessian_RR.T) / 2
            inverses.append(ridged_inverse(symmetric_RR + torch.diag(mu * self.penalised_R).to(hessian_RR), RIDGE))
        self.inverse_KRR = torch.stack(inverses)
        self.mu = mu


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
