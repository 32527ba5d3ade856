"""BlockDiagonal preconditioner: the Hessian's block of every class as a full matrix, inverted; for few classes."""

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.pieces import pieces, wide_product
from penultimate.engine.probe.objective.torch_design import ROWS, WIDE
from penultimate.engine.probe.preconditioners.ridged_inverse import ridged_inverse

# Shapes: N samples, K classes, C of them at once, S strengths, R columns of the rotated features.

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


GPU_INVERSION = 30.0
"""How much slower a GPU inverts than it multiplies for the Hessian, for each operation: a fifteenth of its peak in
float32 instead of bfloat16 (67 and 989 TFLOP/s of an H100), of which factorisations reach half at best. Not measured.
"""


class BlockDiagonal:
    """The inverse of mean_i c_ik z_i z_i' + mu for each class k, c the curvature of the loss, from some of the rows.

    On a CPU the matrices are kept beside their inverses; on a GPU, whose memory they would take twice, they are made
    again when ``mu`` has fallen far.
    """

    def __init__(self, problem: InMemoryProblem, residual_KN: Tensor, mu: float) -> None:
        self.problem = problem
        self.hessian_KRR = None if residual_KN.device.type == "cuda" else self._hessians(residual_KN)
        self.inverse_KRR = self._inverses(residual_KN, mu)
        self.mu = mu

    @staticmethod
    def suits(problem: InMemoryProblem, classes: int) -> bool:
        """Return whether it fits and applying it takes less than half of a Hessian product.

        Samples must count alike.
        """
        rows, columns = problem.design.low_NR.shape
        fast = READING * columns * min(1.0, classes / WIDE) < rows / 2
        fits = BlockDiagonal.num_bytes(columns, classes) <= problem.spare_bytes
        return problem.features.sample_weight_N is None and fast and fits

    @staticmethod
    def cost(problem: InMemoryProblem, classes: int) -> float:
        """Return the number of Hessian products that take as long as making it.

        On a CPU all are counted at full speed.
        """
        rows, columns = problem.design.low_NR.shape
        moments = columns / 2 * min(1.0, classes / WIDE) * min(1.0, ROWS_PER_COLUMN * columns / rows)
        if problem.design.low_NR.device.type != "cuda":
            return moments
        return moments + GPU_INVERSION * columns * columns / (4 * rows)

    @staticmethod
    def num_bytes(columns: int, classes: int) -> int:
        """Return the memory that it takes on a GPU: one float32 matrix a class."""
        return 4 * classes * columns * columns

    def update(self, residual_KN: Tensor, mu: float) -> None:
        """Invert again for ``mu`` if l2 has fallen far since the last time."""
        if mu * STALE < self.mu:
            del self.inverse_KRR  # frees its memory for the new one
            self.inverse_KRR = self._inverses(residual_KN, mu)
            self.mu = mu

    def __call__(self, residual_SKR: Tensor) -> Tensor:
        """Return the approximate inverse of the Hessian times the residual."""
        inverse_KRR = self.inverse_KRR.to(residual_SKR.dtype)
        return torch.bmm(inverse_KRR, residual_SKR.permute(1, 2, 0)).permute(2, 0, 1)

    def _hessians(self, residual_CN: Tensor) -> Tensor:
        """Return mean_i c_ik z_i z_i' of some classes, (C, R, R)."""
        loss, targets, low_NR = self.problem.loss, self.problem.targets, self.problem.design.low_NR
        curvatures = (loss.curvature(residual_N[None, None], targets)[0, 0] for residual_N in residual_CN)
        return torch.stack([_weighted_moment(low_NR, curvature_N) for curvature_N in curvatures])

    def _inverses(self, residual_KN: Tensor, mu: float) -> Tensor:
        """Return the inverses of all classes, (K, R, R); on a GPU, whose host waits for each piece, many at once."""
        classes, columns = len(residual_KN), self.problem.design.low_NR.shape[1]
        penalty_RR = torch.diag(mu * self.problem.penalised_R)
        inverse_KRR = torch.empty(0)
        for some in pieces(classes, columns * columns, residual_KN.device, cpu_piece=1):
            kept = self.hessian_KRR
            hessian_CRR = self._hessians(residual_KN[some]) if kept is None else kept[some]
            symmetric_CRR = (hessian_CRR + hessian_CRR.transpose(1, 2)) / 2
            if not len(inverse_KRR):
                inverse_KRR = hessian_CRR.new_empty(classes, columns, columns)
            inverse_KRR[some] = ridged_inverse(symmetric_CRR + penalty_RR.to(hessian_CRR), RIDGE)
        return inverse_KRR


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
    return _moment(chosen_MR, chosen_MR) * (sum_N[-1] / rows / drawn)


def _moment(left_MR: Tensor, right_MR: Tensor) -> Tensor:
    """Return left.T @ right, which is symmetric; summed in float32 over blocks.

    A bfloat16 sum would drown its small eigenvalues. On a CPU the blocks above the diagonal are not multiplied, which
    saves three eighths; on a GPU one large product is faster.
    """
    dtype, columns = torch.promote_types(left_MR.dtype, torch.float32), left_MR.shape[1]
    total_RR = torch.zeros(columns, columns, dtype=dtype, device=left_MR.device)
    width = columns if left_MR.is_cuda else -(-columns // 4)
    for start in range(0, len(left_MR), ROWS):
        rows = slice(start, start + ROWS)
        for first in range(0, columns, width):
            some, until = slice(first, first + width), slice(0, first + width)
            total_RR[some, until] += wide_product(left_MR[rows, some].T, right_MR[rows, until])
    return total_RR if width == columns else total_RR.tril() + total_RR.tril(-1).T
