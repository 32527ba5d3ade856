"""BlockDiagonal preconditioner: the Hessian's block of every class as a full matrix, inverted; for few classes."""

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.torch_design import ROWS, WIDE
from penultimate.engine.probe.preconditioners.ridged_inverse import ridged_inverse

# Shapes: N samples, K classes, S strengths, R columns of the rotated features.

STALE = 16.0
"""Factor by which l2 may fall before the matrices are inverted again."""

RIDGE = 1e-5
"""Ridge on the unit diagonal of the matrices: bfloat16 rounding can make one indefinite."""

ROWS_PER_COLUMN = 4
"""Number of rows drawn for a matrix, for each of R columns.

With 40 conjugate gradients took as many products, and multiplying the rows took seven times as long.
"""

READING = 50
"""Number of rows at which a Hessian product costs as much as reading one row of every class's matrix.

Measured with K >= 64.
"""


class BlockDiagonal:
    """The inverse of mean_i c_ik z_i z_i' + mu for each class k, c the curvature of the loss, from some of the rows."""

    def __init__(self, problem: InMemoryProblem, curvature_KN: Tensor, mu: float) -> None:
        self.penalised_R = problem.penalised_R
        self.hessian_KRR = torch.stack(
            [_weighted_moment(problem.design.low_NR, curvature_N) for curvature_N in curvature_KN]
        )
        self._invert(mu)

    @staticmethod
    def suits(problem: InMemoryProblem, classes: int) -> bool:
        """Return whether applying it takes less than half of a Hessian product; samples must count alike."""
        rows, columns = problem.design.low_NR.shape
        return problem.features.sample_weight_N is None and READING * columns * min(1.0, classes / WIDE) < rows / 2

    @staticmethod
    def cost(problem: InMemoryProblem, classes: int) -> float:
        """Return the number of Hessian products that take as long as making it, all counted at full speed."""
        rows, columns = problem.design.low_NR.shape
        return columns / 2 * min(1.0, classes / WIDE) * min(1.0, ROWS_PER_COLUMN * columns / rows)

    def update(self, mu: float) -> None:
        """Invert again for ``mu`` if l2 has fallen far since the last time."""
        if mu * STALE < self.mu:
            self._invert(mu)

    def __call__(self, residual_SKR: Tensor) -> Tensor:
        """Return the approximate inverse of the Hessian times the residual."""
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
    """Return mean_i weight_i z_i z_i', from a draw of rows where there are more than ``ROWS_PER_COLUMN`` a column.

    Rows are drawn in proportion to their weight, evenly along its cumulative sum: all drawn rows count alike, and the
    few near a boundary, which carry most of the weight, are drawn several times.
    """
    rows, columns = low_NR.shape
    drawn = ROWS_PER_COLUMN * columns
    if rows <= drawn:
        return _moment((low_NR * weight_N[:, None]).to(low_NR.dtype), low_NR) / rows
    sum_N = weight_N.double().cumsum(0)
    levels = (torch.arange(drawn, device=sum_N.device) + 0.5) * (sum_N[-1] / drawn)
    chosen_MR = low_NR[torch.searchsorted(sum_N, levels).clamp_max(rows - 1)]
    return _moment(chosen_MR, chosen_MR) * float(sum_N[-1] / rows / drawn)


def _moment(left_MR: Tensor, right_MR: Tensor) -> Tensor:
    """Return left.T @ right, summed in float32 over blocks: a bfloat16 sum would drown its small eigenvalues."""
    dtype = torch.promote_types(left_MR.dtype, torch.float32)
    total_RR = torch.zeros(left_MR.shape[1], right_MR.shape[1], dtype=dtype, device=left_MR.device)
    for start in range(0, len(left_MR), ROWS):
        rows = slice(start, start + ROWS)
        total_RR += left_MR[rows].T @ right_MR[rows]
    return total_RR
