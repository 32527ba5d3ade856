"""LowRank preconditioner: every class's block as a diagonal plus the few rows that carry most of its curvature.

At weak l2 only samples near a boundary of class k still have curvature: of all 9,144 images of Caltech-101, 64 carry
60 to 77 % of a class's. With C the weighted curvature of those rows and A their features, the block is D + A' C A, D
the diagonal that the other rows would have were their curvature the same for all, and (Woodbury 1950)

    (D + A' C A)^-1 = D^-1 - D^-1 A' (C^-1 + A D^-1 A')^-1 A D^-1.

The two parts cancel where a row's curvature is far above D: the inner matrix is made and kept in float64. Rows are
multiplied in the main dtype; on AMX in float32, rounded to bfloat16 as the Hessian's own are, and in the inner matrix
as well. With products rounded to bfloat16 conjugate gradients did not converge.
"""

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.pieces import pieces
from penultimate.engine.probe.objective.torch_design import WIDE
from penultimate.engine.probe.preconditioners.ridged_inverse import ridged_inverse

# Shapes: N samples, K classes, C of them at once, S strengths, R columns of the rotated features, X rows of a class.

ROW_FRACTION = 1 / 3
"""Number of rows of all classes together, as a fraction of the samples.

So they take a third of the features' memory and of a product's time.
"""

MIN_ROWS, MAX_ROWS = 32, 512
"""Number of rows of a class; the inner matrix has as many squared."""

DEAR = 2
"""Factor on the number of rows where Hessian products are as exact, and as dear, as gradients: more rows take longer
and save products. On Caltech-101 32, 48, 64 and 96 rows took 312, 262, 238 and 237 products with the features."""

GRAM, DEAR_GRAM = 7.0, 1.5
"""Ratio of the speed of Hessian products to that of the Gram matrices; the second where products are dear."""

MIN_REST = 0.01
"""Smallest fraction of a class's curvature that the diagonal represents: without it the bias would have none."""

RIDGE = 1e-10
"""Ridge on the inner matrix's unit diagonal: rows may repeat."""


class LowRank:
    """A diagonal and X rows for each class, inverted by Woodbury's formula."""

    def __init__(self, problem: InMemoryProblem, residual_KN: Tensor, mu: float) -> None:
        count, found = class_rows(len(residual_KN[0]), len(residual_KN), dear=problem.products_in_halves), []
        for some in pieces(len(residual_KN), residual_KN.shape[1], residual_KN.device):
            curvature_CN = problem.loss.curvature(residual_KN[some][None], problem.targets)[0]
            weighted_CN = problem.features.times_sample_weight(curvature_CN)
            found.append((*weighted_CN.topk(count, dim=1), weighted_CN.sum(1, dtype=torch.float64)))
            del curvature_CN, weighted_CN
        top_KX, index_KX, all_K = (torch.cat(parts) for parts in zip(*found, strict=True))
        rest_K = (all_K - top_KX.sum(1, dtype=torch.float64)).maximum(MIN_REST * all_K)
        diagonal_KR = rest_K[:, None] * problem.mean_square_R + mu * problem.penalised_R
        inverse_KR = 1 / torch.maximum(diagonal_KR, 1e-12 * diagonal_KR.amax(1, keepdim=True))
        self.rows = problem.linear_loss.class_rows(index_KX, inverse_KR)
        curvature_KXX = torch.diag_embed(1 / top_KX.double().clamp_min(1e-300))
        self.inner_KXX = ridged_inverse(self.rows.gram() + curvature_KXX, RIDGE).contiguous()

    @staticmethod
    def cost(problem: InMemoryProblem, classes: int) -> float:
        """Return the number of Hessian products that take as long as making it."""
        rows, dear = problem.features.num_rows, problem.products_in_halves
        slower = DEAR_GRAM if dear else GRAM
        return slower * class_rows(rows, classes, dear=dear) ** 2 / rows * min(1.0, classes / WIDE)

    def __call__(self, residual_SKR: Tensor) -> Tensor:
        """Return the approximate inverse of the Hessian times the residual."""
        return self.rows.solve(self.inner_KXX, residual_SKR)


def class_rows(rows: int, classes: int, *, dear: bool) -> int:
    """Return the number of rows for each class, X, of a problem of so many rows; more where products are ``dear``."""
    return min(rows, MAX_ROWS, (DEAR if dear else 1) * max(MIN_ROWS, int(ROW_FRACTION * rows / classes)))
