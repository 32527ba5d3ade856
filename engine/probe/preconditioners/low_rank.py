"""The Hessian's block of every class as a diagonal plus the few rows that carry most of its curvature, inverted.

At weak l2 only samples near a boundary of class k still have curvature: of all 9,144 images of Caltech-101, 64 carry
60 to 77 % of a class's. With C those rows' curvature and A their features, the block is D + A' C A, D the diagonal that
the other rows would have were their curvature the same for all, and (Woodbury 1950)

    (D + A' C A)^-1 = D^-1 - D^-1 A' (C^-1 + A D^-1 A')^-1 A D^-1.

The two parts cancel where a row's curvature is far above D: the matrix in the middle is made and kept in float64. Rows
are multiplied in the main dtype; on matrix units in float32, rounded to bfloat16 as the Hessian's own are, and in the
middle as well. With products rounded to bfloat16 conjugate gradients did not converge.
"""

import torch
from torch import Tensor

from penultimate.engine.probe.objective.design import WIDE
from penultimate.engine.probe.objective.in_memory import InMemory
from penultimate.engine.probe.preconditioners.ridged_inverse import ridged_inverse

# Shapes: N samples, K classes, S strengths, R columns of the turned design, M rows of a class.

SHARE = 1 / 3
"""Rows of all classes together, in samples: they take a third of the features' memory, and of a product's time."""

FEWEST, MOST = 32, 512
"""Rows of a class; the middle takes as many squared."""

LEAST = 0.01
"""Share of a class's curvature that the diagonal stands for at least: without it the bias would have none."""

CLASSES = 8
"""Whose middles are made at once: their rows in float64 take 3 MB at 1,280 dimensions."""

RIDGE = 1e-10
"""Added to the middle's unit diagonal: rows may repeat."""


class CurvedRows:
    """A diagonal and M rows for each class."""

    def __init__(self, problem: InMemory, curvature_KN: Tensor, mu: float) -> None:
        share_KN = problem.design.shared(curvature_KN)
        share_KM, self.index_KM = share_KN.topk(_count(problem, len(share_KN)), dim=1)
        all_K = share_KN.sum(1, dtype=torch.float64)
        rest_K = (all_K - share_KM.sum(1, dtype=torch.float64)).maximum(LEAST * all_K)
        diagonal_KR = rest_K[:, None] * problem.scale_R + mu * problem.penalised_R
        self.inverse_KR = 1 / torch.maximum(diagonal_KR, 1e-12 * diagonal_KR.amax(1, keepdim=True))
        self.units = problem.units
        if self.units is not None:
            self.inverse_KR = self.inverse_KR.float()
            middle_KMM = self.units.curved_middle(self.index_KM, self.inverse_KR)
        else:
            matrix_NR = problem.design.matrix_NR
            self.rows_KMR = matrix_NR.index_select(0, self.index_KM.flatten()).view(*self.index_KM.shape, -1)
            middle_KMM = _middle(self.rows_KMR, self.inverse_KR)
        curvature_KMM = torch.diag_embed(1 / share_KM.double().clamp_min(1e-300))
        self.middle_KMM = ridged_inverse(middle_KMM + curvature_KMM, RIDGE).contiguous()

    @staticmethod
    def price(problem: InMemory, classes: int) -> float:
        """Hessian products that take as long as making them: their middle is multiplied at a seventh of the speed."""
        return 7 * _count(problem, classes) ** 2 / problem.design.num_rows * min(1.0, classes / WIDE)

    def __call__(self, residual_SKR: Tensor) -> Tensor:
        """Its inverse times the residual."""
        if self.units is not None:
            return self.units.curved_solve(self.index_KM, self.inverse_KR, self.middle_KMM, residual_SKR)
        inverse_KR = self.inverse_KR.to(residual_SKR.dtype)
        scaled_SKR = inverse_KR * residual_SKR
        # The rows on the right: as a row times a matrix, one strength's products take half as long as the other way.
        seen_KSM = torch.bmm(scaled_SKR.transpose(0, 1).to(self.rows_KMR.dtype), self.rows_KMR.transpose(1, 2))
        taken_KSM = torch.bmm(seen_KSM.double(), self.middle_KMM).to(self.rows_KMR.dtype)
        back_SKR = torch.bmm(taken_KSM, self.rows_KMR).transpose(0, 1)
        return torch.addcmul(scaled_SKR, inverse_KR, back_SKR, value=-1)


def _count(problem: InMemory, classes: int) -> int:
    """M."""
    rows = problem.design.num_rows
    return min(rows, MOST, max(FEWEST, int(SHARE * rows / classes)))


def _middle(rows_KMR: Tensor, inverse_KR: Tensor) -> Tensor:
    """A D^-1 A' for each class, float64."""
    middles = []
    for first in range(0, len(rows_KMR), CLASSES):
        some = slice(first, first + CLASSES)
        rows_CMR = rows_KMR[some].double()
        middles.append(torch.bmm(rows_CMR * inverse_KR[some, None], rows_CMR.transpose(1, 2)))
    return torch.cat(middles)
