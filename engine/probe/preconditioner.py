"""What stands in for the Hessian's inverse in conjugate gradients: a diagonal, a few rows a class, or a matrix a class.

In the eigenbasis of the features, the Hessian's block of class k is sum_i s_i c_ik z_i z_i' + mu, with c the curvature
of the loss. If c did not vary over samples that would be the diagonal c_k * variance + mu. It does vary, and at weak l2
the samples that matter are the few near a boundary. The true block, inverted, takes a sixth of the iterations (42 to 7
on CIFAR-10 at l2 = 0.06), but each has to read it; where classes are many, the rows that carry most of its curvature
take a seventh (237 to 33 on all of Caltech-101 at l2 = 0.1). Either is made once conjugate gradients have become slow,
and kept while it serves.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from penultimate.engine.probe.class_matrices import ClassMatrices
from penultimate.engine.probe.curved_rows import CurvedRows
from penultimate.engine.probe.problem import InMemory, Point, Problem

# Shapes: N samples, K classes, S strengths, R columns of the turned design.

Apply = Callable[[Tensor], Tensor]

SERVED = 8
"""Strengths that a preconditioner of class blocks is expected to serve."""

FEW = 10
"""Hessian products of a block of strengths that need no better preconditioner."""


class Preconditioner:
    """Chooses and keeps the preconditioner along a path; a block of strengths shares one, made for the middle of it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.dtype = torch.float64 if problem.rounding < 1e-12 else torch.float32
        """What conjugate gradients work in: their products carry the rounding of bfloat16 or float32 anyway."""

        self.blocks: ClassMatrices | CurvedRows | None = None
        self.fresh_products: int | None = None
        """Hessian products of the first block of strengths that ``blocks`` served."""

        self.products = 0
        """Hessian products of the block of strengths solved last: told by the caller."""

        self.reach = math.inf
        """How much further its solutions were than the metric said (``conjugate.py``): told by the caller."""

    def at(self, point: Point, mu_S: Tensor, *, first: bool) -> Apply:
        """The preconditioner for this point; only at the ``first`` of a strength may it be made anew."""
        if first and isinstance(self.problem, InMemory) and self.problem.loss.smooth_bias:
            self._renew(self.problem, point, float(mu_S.log().mean().exp()))
        return self._diagonal(point.moments.curvature_SK, mu_S) if self.blocks is None else self.blocks

    def _renew(self, problem: InMemory, point: Point, mu: float) -> None:
        """Make blocks where that costs less than the Hessian products they save."""
        classes = point.weight_SKR.shape[1]
        kind = ClassMatrices if ClassMatrices.suit(problem, classes) else CurvedRows
        if self.blocks is not None and self.fresh_products is None:
            self.fresh_products = self.products
        wasted = self.products - (self.fresh_products or 0)
        if wasted > max(FEW, kind.price(problem, classes) / SERVED):
            assert point.residual_SKN is not None
            middle_1KN = point.residual_SKN[len(point.residual_SKN) // 2][None]
            curvature_KN = problem.loss.curvature(middle_1KN, problem.targets)[0]
            self.blocks, self.fresh_products = kind(problem, curvature_KN, mu), None
        elif self.blocks is not None:
            self.blocks.follow(mu)

    def _diagonal(self, curvature_SK: Tensor, mu_S: Tensor) -> Apply:
        diagonal = curvature_SK[:, :, None] * self.problem.scale_R + mu_S[:, None, None] * self.problem.penalised_R
        floor = 1e-12 * diagonal.amax(2, keepdim=True)
        inverse = (1 / torch.maximum(diagonal, floor.clamp_min(1e-300))).to(self.dtype)
        return lambda residual_SKR: inverse * residual_SKR
