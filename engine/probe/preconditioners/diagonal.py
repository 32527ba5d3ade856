"""Diagonal preconditioner: the inverse of the Hessian in principal axes, were the curvature alike for all samples."""

from collections.abc import Callable

import torch
from torch import Tensor

from penultimate.engine.probe.objective.problem import Problem

# Shapes: K classes, S strengths, R columns of the rotated features.

Preconditioner = Callable[[Tensor], Tensor]
"""Maps residuals (S, K, R) to an approximation of the Hessian's inverse times them, in the same dtype."""


def diagonal_preconditioner(problem: Problem, curvature_SK: Tensor, mu_S: Tensor, dtype: torch.dtype) -> Preconditioner:
    """Return the inverse of curvature_k * variance_r + mu for each strength and class, in ``dtype``."""
    diagonal_SKR = curvature_SK[:, :, None] * problem.mean_square_R + mu_S[:, None, None] * problem.penalised_R
    floor = 1e-12 * diagonal_SKR.amax(2, keepdim=True)
    inverse_SKR = (1 / torch.maximum(diagonal_SKR, floor.clamp_min(1e-300))).to(dtype)
    return lambda residual_SKR: inverse_SKR * residual_SKR
