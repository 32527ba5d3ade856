"""Choose the preconditioner of conjugate gradients along a path: diagonal, block-diagonal, low-rank or support vectors.

In the eigenbasis of the features, the Hessian's block of class k is sum_i s_i c_ik z_i z_i' + mu, with s the weight of
a sample and c the curvature of its loss. If c did not vary over samples that would be the diagonal c_k * variance + mu.
It does vary, and at weak l2 the samples that matter are the few near a boundary. The true block, inverted, takes a
sixth of the iterations (42 to 7 on CIFAR-10 at l2 = 0.06), but each iteration has to read it; where classes are many,
the rows that carry most of its curvature take a seventh (237 to 33 on all of Caltech-101 at l2 = 0.1). Either is made
at a node of the path (``solver/continuation.py``) once the nodes before it took more products than making it costs, and
in place of the diagonal also within a node that did. Under the squared hinge few rows may have all of the curvature:
once a step took more products than making their inverse costs, it is made at every step, as other rows come in.
"""

import math

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.problem import Point, Problem
from penultimate.engine.probe.preconditioners.block_diagonal import BlockDiagonal
from penultimate.engine.probe.preconditioners.diagonal import Preconditioner, diagonal_preconditioner
from penultimate.engine.probe.preconditioners.low_rank import LowRank
from penultimate.engine.probe.preconditioners.support_vectors import SupportVectors

# Shapes: K classes, N samples, S strengths, R columns of the rotated features.

MIN_PRODUCTS = 8
"""Number of Hessian products of a node up to which the next needs no better preconditioner.

Where products are dear and the diagonal is in use, those that the next is expected to take: more than the last by as
much as l2 falls. On Caltech-101 nodes took 11.5 and 9 after 3 and 2 where l2 fell by factors of 3.2 and 5.5.
"""

MIN_DEAR_PRODUCTS = 4.0
"""Those where products are dear and a better preconditioner than the diagonal is in use; also those of one solution
with the diagonal from which on it goes on with a better one."""

LOW_SPEED = 6
"""Number of low-precision Hessian products that take as long as one in float64 (2.2 and 13 ms).

Support vectors need the latter.
"""


class PreconditionerChoice:
    """The preconditioner in use; a block of strengths shares one, made for the middle of it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.dtype = torch.float64 if problem.rounding < 1e-12 else torch.float32
        """Dtype of conjugate gradients, whose products carry the rounding of bfloat16 or float32 anyway."""

        self.current: BlockDiagonal | LowRank | SupportVectors | None = None
        """Preconditioner in use; None for the diagonal."""

        self.mu = 0.0
        """l2 of the last node over the sum of sample weights."""

        self.error_ratio = math.inf
        """Ratio of true error to preconditioned residual of the last solutions, set by their solver."""

        self.reduction = math.nan
        """Factor by which an iteration changed the squared residual, in the last solution that found it."""

    def at(self, point: Point, mu_S: Tensor) -> Preconditioner:
        """Return the preconditioner for this point."""
        if self.current is not None:
            return self.current
        return diagonal_preconditioner(self.problem, point.moments.curvature_SK, mu_S, self.dtype)

    @property
    def wants_exact_products(self) -> bool:
        """Return True if the rounding of Hessian products would drown the directions that it divides by mu."""
        return isinstance(self.current, SupportVectors)

    def adapt(self, point: Point, mu_S: Tensor, *, products: float, products_of_step: int) -> bool:
        """Use a better preconditioner from this step of a solution on if that pays, and return whether it does.

        ``products`` are the Hessian products that the solution took so far, ``products_of_step`` those of its last
        step. For smooth losses it pays where products are dear, the diagonal is in use and the solution took more of
        them than a better one costs.
        """
        if not isinstance(self.problem, InMemoryProblem):
            return False
        if not self.problem.loss.smooth:
            return self._use_support_vectors(self.problem, point, mu_S, products=products_of_step)
        if self.current is not None or not self.problem.products_in_halves:
            return False
        kind = self._kind(self.problem, point)
        if products <= max(MIN_DEAR_PRODUCTS, kind.cost(self.problem, point.weight_SKR.shape[1])):
            return False
        self.current = kind(self.problem, _middle(point), float(mu_S[len(mu_S) // 2]))
        return True

    def _use_support_vectors(self, problem: InMemoryProblem, point: Point, mu_S: Tensor, *, products: int) -> bool:
        """Use the support vectors of this point if that pays, and return whether it does.

        It does if support vectors are in use already, or if the last step took more Hessian ``products`` than they
        cost; never in float32 or where there are too many.
        """
        cost = SupportVectors.cost(problem, point)
        if (self.current is None and products <= max(MIN_PRODUCTS, LOW_SPEED * cost)) or cost == math.inf:
            return False
        self.current = SupportVectors(problem, point, mu_S)
        return True

    def renew(self, point: Point, mu: float, *, products: float) -> None:
        """Renew the preconditioner at this node where it costs less than the Hessian ``products`` of the last nodes."""
        problem = self.problem
        if isinstance(self.current, SupportVectors) and self.current.strengths != len(point.weight_SKR):
            self.current = None
        if not isinstance(problem, InMemoryProblem) or not problem.loss.smooth:
            return
        enough: float = MIN_PRODUCTS
        if problem.products_in_halves and self.current is None:
            products *= self.mu / mu
        elif problem.products_in_halves:
            enough = MIN_DEAR_PRODUCTS
        self.mu, kind = mu, self._kind(problem, point)
        if products > max(enough, kind.cost(problem, point.weight_SKR.shape[1])):
            self.current = None  # frees its memory for the new one
            self.current = kind(problem, _middle(point), mu)
        elif isinstance(self.current, BlockDiagonal):
            self.current.update(_middle(point), mu)

    @staticmethod
    def _kind(problem: InMemoryProblem, point: Point) -> type[BlockDiagonal | LowRank]:
        """Return the better preconditioner of a smooth loss."""
        return BlockDiagonal if BlockDiagonal.suits(problem, point.weight_SKR.shape[1]) else LowRank


def _middle(point: Point) -> Tensor:
    """Return the residuals (K, N) of the strength in the middle."""
    assert point.residual_SKN is not None
    return point.residual_SKN[len(point.residual_SKN) // 2]
