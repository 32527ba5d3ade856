"""SupportVectors preconditioner: the exact inverse of the squared hinge's Hessian, from the rows inside the margin.

Where classes are separable the support vectors are few (92 of 3,060 rows a class of Caltech-101 at l2 = 10, 87 at
1e-6), and no other row counts: with A their features, h twice their sample weights and D = diag(mu), the block of a
class is D + A' diag(h) A and its inverse (Woodbury 1950)

    D^-1 - D^-1 A' (diag(1/h) + A D^-1 A')^-1 A D^-1.

A Newton step with it is the optimum for these support vectors (Mangasarian 2002; Keerthi & DeCoste 2005), most of which
are still inside the margin there. Conjugate gradients without it have the condition number of the largest variance over
mu, 1e10 at weak l2. It needs float64: the two terms cancel to one part in that number.
"""

import math

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.problem import Point
from penultimate.engine.probe.preconditioners.ridged_inverse import ridged_inverse

# Shapes: N samples, K classes, S strengths, Y = S x K, R columns of the rotated features, X support vectors of a class.

MAX_NUMBERS = 1 << 26
"""Size of the inner matrices of all strengths and classes together: 512 MB in float64."""

SLOWER = 2.0
"""Ratio of the time that making it takes, in many small products and inverses, to that of large products."""

BIAS_CURVATURE = 1e-6
"""Fraction of a class's curvature that D has for the bias, which is not penalised."""

RIDGE = 1e-14
"""Ridge on the inner matrix's unit diagonal: rows may repeat."""


class SupportVectors:
    """The support vectors of each strength and class, with their inner matrices."""

    def __init__(self, problem: InMemoryProblem, point: Point, mu_S: Tensor) -> None:
        self.matrix_NR, self.strengths = problem.features.matrix_NR, len(mu_S)
        curvature_SKN = _weighted_curvature(problem, point)
        self.inverse_SKR = _inverse_diagonal(problem, curvature_SKN.sum(2), mu_S)
        self.rows, self.inners = [], []
        for curvature_N, inverse_R in zip(curvature_SKN.flatten(0, 1), self.inverse_SKR.flatten(0, 1), strict=True):
            (rows_X,) = curvature_N.nonzero(as_tuple=True)
            features_XR = self.matrix_NR[rows_X]
            inner_XX = (features_XR * inverse_R) @ features_XR.T + torch.diag(1 / curvature_N[rows_X])
            self.rows.append(rows_X)
            self.inners.append(ridged_inverse(inner_XX, RIDGE))

    @staticmethod
    def cost(problem: InMemoryProblem, point: Point) -> float:
        """Return the number of Hessian products that take as long as making it.

        Infinite where there are too many support vectors, or in float32.
        """
        if problem.dtype != torch.float64:
            return math.inf
        count_SK = (_weighted_curvature(problem, point) > 0).sum(2).double()
        if count_SK.square().sum() > MAX_NUMBERS:
            return math.inf
        rows, columns = problem.features.matrix_NR.shape
        return SLOWER * float((count_SK.square() * (1 + count_SK / columns)).mean()) / rows

    def __call__(self, residual_SKR: Tensor) -> Tensor:
        """Return the inverse of the Hessian times the residual.

        Takes two products with all rows, of which only the support vectors' columns are used.
        """
        scaled_SKR = self.inverse_SKR * residual_SKR
        projected_YN = scaled_SKR.flatten(0, 1) @ self.matrix_NR.T
        solved_YN = torch.zeros_like(projected_YN)
        for solved_N, projected_N, rows_X, inner_XX in zip(
            solved_YN, projected_YN, self.rows, self.inners, strict=True
        ):
            solved_N[rows_X] = inner_XX @ projected_N[rows_X]
        back_SKR = (solved_YN @ self.matrix_NR).view_as(scaled_SKR)
        return torch.addcmul(scaled_SKR, self.inverse_SKR, back_SKR, value=-1)


def _weighted_curvature(problem: InMemoryProblem, point: Point) -> Tensor:
    """Return h, (S, K, N)."""
    assert point.residual_SKN is not None
    return problem.features.times_sample_weight(problem.loss.curvature(point.residual_SKN, problem.targets))


def _inverse_diagonal(problem: InMemoryProblem, sum_SK: Tensor, mu_S: Tensor) -> Tensor:
    """Return D^-1, (S, K, R), from the weighted curvature of each class."""
    diagonal_SKR = mu_S[:, None, None].repeat(1, sum_SK.shape[1], len(problem.penalised_R))
    diagonal_SKR[:, :, problem.bias_column] = torch.where(sum_SK > 0, BIAS_CURVATURE * sum_SK, 1.0)
    return 1 / diagonal_SKR
