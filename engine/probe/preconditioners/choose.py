"""What stands in for the Hessian's inverse in conjugate gradients: a diagonal, a few rows a class, or a matrix a class.

In the eigenbasis of the features, the Hessian's block of class k is sum_i s_i c_ik z_i z_i' + mu, with c the curvature
of the loss. If c did not vary over samples that would be the diagonal c_k * variance + mu. It does vary, and at weak l2
the samples that matter are the few near a boundary. The true block, inverted, takes a sixth of the iterations (42 to 7
on CIFAR-10 at l2 = 0.06), but each has to read it; where classes are many, the rows that carry most of its curvature
take a seventh (237 to 33 on all of Caltech-101 at l2 = 0.1). Either is made at a node of the path (``chain.py``) once
the nodes before it took more products than making it costs. Under the squared hinge few rows may have all of it: once a
step took more products than making their inverse costs, it is made at every step, as other rows come in.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import InMemory, Point, Problem
from penultimate.engine.probe.preconditioners.block_diagonal import ClassMatrices
from penultimate.engine.probe.preconditioners.low_rank import CurvedRows
from penultimate.engine.probe.preconditioners.support_vectors import SupportRows

# Shapes: N samples, K classes, S strengths, R columns of the turned design.

Apply = Callable[[Tensor], Tensor]

FEW = 8
"""Hessian products of nodes that need no better preconditioner."""

LOW_SPEED = 6
"""Hessian products at low precision that take as long as one in float64, which support rows need: 2.2 and 13 ms."""


class Preconditioner:
    """Chooses and keeps the preconditioner along a path; a block of strengths shares one, made for the middle of it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.dtype = torch.float64 if problem.rounding < 1e-12 else torch.float32
        """What conjugate gradients work in: their products carry the rounding of bfloat16 or float32 anyway."""

        self.blocks: ClassMatrices | CurvedRows | SupportRows | None = None
        self.reach = math.inf
        """How much further its solutions were than the metric said (``conjugate.py``): told by the caller."""

    def at(self, point: Point, mu_S: Tensor) -> Apply:
        """The preconditioner for this point."""
        return self._diagonal(point.moments.curvature_SK, mu_S) if self.blocks is None else self.blocks

    @property
    def wants_exact_products(self) -> bool:
        """Whether rounding of Hessian products would drown what it divides by mu."""
        return isinstance(self.blocks, SupportRows)

    def take_support_rows(self, point: Point, mu_S: Tensor, *, products: int) -> bool:
        """Make those of this point, if the last step took so many Hessian ``products`` or they are in use already."""
        problem = self.problem
        if not isinstance(problem, InMemory) or problem.loss.smooth:
            return False
        price = SupportRows.price(problem, point)
        if (self.blocks is None and products <= max(FEW, LOW_SPEED * price)) or price == math.inf:
            return False
        self.blocks = SupportRows(problem, point, mu_S)
        return True

    def renew(self, point: Point, mu: float, *, products: float) -> None:
        """Make blocks at this node where that costs less than the Hessian ``products`` that the last nodes took."""
        problem = self.problem
        if isinstance(self.blocks, SupportRows) and self.blocks.strengths != len(point.weight_SKR):
            self.blocks = None
        if not isinstance(problem, InMemory) or not problem.loss.smooth:
            return
        classes = point.weight_SKR.shape[1]
        kind = ClassMatrices if ClassMatrices.suit(problem, classes) else CurvedRows
        if products > max(FEW, kind.price(problem, classes)):
            assert point.residual_SKN is not None
            middle_1KN = point.residual_SKN[len(point.residual_SKN) // 2][None]
            curvature_KN = problem.loss.curvature(middle_1KN, problem.targets)[0]
            self.blocks = None  # its memory is that of the new one
            self.blocks = kind(problem, curvature_KN, mu)
        elif isinstance(self.blocks, ClassMatrices):
            self.blocks.follow(mu)

    def _diagonal(self, curvature_SK: Tensor, mu_S: Tensor) -> Apply:
        diagonal = curvature_SK[:, :, None] * self.problem.scale_R + mu_S[:, None, None] * self.problem.penalised_R
        floor = 1e-12 * diagonal.amax(2, keepdim=True)
        inverse = (1 / torch.maximum(diagonal, floor.clamp_min(1e-300))).to(self.dtype)
        return lambda residual_SKR: inverse * residual_SKR
