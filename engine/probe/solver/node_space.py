"""NodeSpace: the objective on the affine space through the solutions of several strengths, and its lowest points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.solver.newton import CLOSE, SMALL_PENALTY

# Shapes: N samples, K classes, R columns of the rotated features, M nodes but the first, Z numbers of a weight matrix.

MAX_EVALUATIONS = 3
"""Number of points of the space that are evaluated to find its lowest."""

LAST_STEP = 300
"""Expected decrease by a step, in units of what the stopping rule allows, up to which the step is taken unseen.

The next decrease is a hundredth of it or less: 0.46 after 320, 0.002 after 511. Up to 1: 41 evaluations on the path of
Caltech-101 instead of 29, and as many products.
"""

RESOLVED = 1e-7
"""Directions with less than this fraction of the largest curvature are left out: float32 sums hide them."""


@dataclass(frozen=True, slots=True)
class Node:
    """The solution of a strength."""

    log_mu: float
    """Logarithm of l2 over the sum of sample weights."""

    weight_KR: Tensor
    scores_KN: Tensor


class NodeSpace:
    """The weights ``first + sum_m a_m (other_m - first)`` and the objective on them, by the coordinates ``a``."""

    def __init__(self, problem: InMemoryProblem, nodes: Sequence[Node], tol: float) -> None:
        self.tol = tol
        self.log_mus = [node.log_mu for node in nodes]
        first, *others = nodes
        self.evaluate = problem.score_space(first.scores_KN, [node.scores_KN for node in others])
        weight_MKR = torch.stack([node.weight_KR for node in nodes])
        weight_MKR[1:] -= weight_MKR[0]
        weight_MKR[:, :, problem.bias_column] = 0
        weight_MZ = weight_MKR.flatten(1)
        gram_MM = (weight_MZ @ weight_MZ.T).cpu()
        self.square, self.inner_M, self.gram_MM = float(gram_MM[0, 0]), gram_MM[0, 1:], gram_MM[1:, 1:]
        """||first||^2, its inner products with the directions, and theirs with each other, without the bias."""

    def lowest(self, log_mu: float) -> list[float]:
        """Return the coordinates of the lowest point, by Newton's method from the line through the first two nodes."""
        mu = math.exp(log_mu)
        point_M = torch.zeros_like(self.inner_M)
        point_M[0] = (log_mu - self.log_mus[0]) / (self.log_mus[1] - self.log_mus[0])
        lowest, best_M, step_M = math.inf, torch.zeros_like(point_M), point_M
        for _ in range(MAX_EVALUATIONS):
            loss, gradient_M, hessian_MM = self.evaluate(point_M.tolist())
            penalty = self._penalty(point_M, mu)
            objective, near = loss + penalty, False
            if objective < lowest:
                lowest, best_M = objective, point_M
                gradient_M = gradient_M + mu * (self.inner_M + self.gram_MM @ point_M)
                step_M = -_least_squares(hessian_MM + mu * self.gram_MM, gradient_M)
                allowed = CLOSE * self.tol * max(penalty, SMALL_PENALTY * objective)
                near = -float(gradient_M @ step_M) / 2 <= LAST_STEP * allowed
            else:
                step_M = step_M / 4
            point_M = best_M + step_M
            if near:
                break
        coordinates: list[float] = point_M.tolist()
        return coordinates

    def objective(self, coordinates: Sequence[float], log_mu: float) -> float:
        """Return the objective at a point of the space."""
        loss, _, _ = self.evaluate(coordinates)
        return loss + self._penalty(torch.tensor(coordinates, dtype=torch.float64), math.exp(log_mu))

    def _penalty(self, point_M: Tensor, mu: float) -> float:
        return mu / 2 * (self.square + float(2 * self.inner_M @ point_M + point_M @ self.gram_MM @ point_M))


def _least_squares(matrix_MM: Tensor, rhs_M: Tensor) -> Tensor:
    """Solve with the matrix scaled to a unit diagonal: nodes may be alike, and at very different distances."""
    root_M = matrix_MM.diagonal().clamp_min(1e-300).sqrt()
    unit_MM = matrix_MM / root_M[:, None] / root_M[None, :]
    inverse_MM = torch.linalg.pinv((unit_MM + unit_MM.T) / 2, rtol=RESOLVED, hermitian=True)
    solution_M: Tensor = inverse_MM @ (rhs_M / root_M) / root_M
    return solution_M
