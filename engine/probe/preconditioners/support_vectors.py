"""The squared hinge's Hessian of every class, inverted: that of its support rows, the ones inside the margin.

Where classes are separable those are few (92 of 3,060 rows a class of Caltech-101 at l2 = 10, 87 at 1e-6), and no other
row counts: with A their features, h their shares times 2 and D = diag(mu), the block of a class is D + A' diag(h) A and
its inverse (Woodbury 1950)

    D^-1 - D^-1 A' (diag(1/h) + A D^-1 A')^-1 A D^-1.

A Newton step with it is the optimum for these support rows (Mangasarian 2002; Keerthi & DeCoste 2005), at which most
are still in place. Conjugate gradients without it have the condition number of the largest variance over mu, 1e10 at
weak l2. For float64 only: the two terms cancel to one part in that number.
"""

import math

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import InMemory, Point
from penultimate.engine.probe.preconditioners.ridged_inverse import ridged_inverse

# Shapes: N samples, K classes, S strengths, X = S x K, R columns of the turned design, M support rows of a class.

MOST = 1 << 26
"""Numbers in the middle matrices of all strengths and classes together: 512 MB in float64."""

SLOWER = 2.0
"""Their making, in many small products and inverses, takes so many times as long as its multiplications should."""

BIAS = 1e-6
"""Share of a class's curvature that D has for the bias, which mu does not reach."""

RIDGE = 1e-14
"""Added to the middle's unit diagonal: rows may repeat."""


class SupportRows:
    """For each strength and class its support rows, and the matrix in the middle."""

    def __init__(self, problem: InMemory, point: Point, mu_S: Tensor) -> None:
        self.matrix_NR, self.strengths = problem.design.matrix_NR, len(mu_S)
        share_SKN = _shares(problem, point)
        self.inverse_SKR = _inverse_diagonal(problem, share_SKN.sum(2), mu_S)
        self.rows, self.middles = [], []
        for share_N, inverse_R in zip(share_SKN.flatten(0, 1), self.inverse_SKR.flatten(0, 1), strict=True):
            (rows_M,) = share_N.nonzero(as_tuple=True)
            features_MR = self.matrix_NR[rows_M]
            middle_MM = (features_MR * inverse_R) @ features_MR.T + torch.diag(1 / share_N[rows_M])
            self.rows.append(rows_M)
            self.middles.append(ridged_inverse(middle_MM, RIDGE))

    @staticmethod
    def price(problem: InMemory, point: Point) -> float:
        """Hessian products that take as long as making them; infinite where there are too many rows, or in float32."""
        if problem.dtype != torch.float64:
            return math.inf
        count_SK = (_shares(problem, point) > 0).sum(2).double()
        if count_SK.square().sum() > MOST:
            return math.inf
        rows, columns = problem.design.matrix_NR.shape
        return SLOWER * float((count_SK.square() * (1 + count_SK / columns)).mean()) / rows

    def __call__(self, residual_SKR: Tensor) -> Tensor:
        """Its inverse times the residual: two products with all rows, of which the support rows' are used."""
        scaled_SKR = self.inverse_SKR * residual_SKR
        seen_XN = scaled_SKR.flatten(0, 1) @ self.matrix_NR.T
        taken_XN = torch.zeros_like(seen_XN)
        for taken_N, seen_N, rows_M, middle_MM in zip(taken_XN, seen_XN, self.rows, self.middles, strict=True):
            taken_N[rows_M] = middle_MM @ seen_N[rows_M]
        back_SKR = (taken_XN @ self.matrix_NR).view_as(scaled_SKR)
        return torch.addcmul(scaled_SKR, self.inverse_SKR, back_SKR, value=-1)


def _shares(problem: InMemory, point: Point) -> Tensor:
    """h, (S, K, N)."""
    assert point.residual_SKN is not None
    return problem.design.shared(problem.loss.curvature(point.residual_SKN, problem.targets))


def _inverse_diagonal(problem: InMemory, all_SK: Tensor, mu_S: Tensor) -> Tensor:
    """D^-1, (S, K, R)."""
    diagonal_SKR = mu_S[:, None, None].repeat(1, all_SK.shape[1], len(problem.penalised_R))
    diagonal_SKR[:, :, problem.bias_column] = torch.where(all_SK > 0, BIAS * all_SK, 1.0)
    return 1 / diagonal_SKR
