"""Invert symmetric matrices that ought to be positive definite and that rounding may have made indefinite."""

import torch
from torch import Tensor

# Shapes: ... any number of matrices, R rows and columns.


def ridged_inverse(matrix_RR: Tensor, ridge: float) -> Tensor:
    """Return the inverse of matrices (..., R, R), scaled to a unit diagonal, plus a ridge.

    The ridge of each matrix is ``ridge``, times 10 until it is positive definite.
    """
    root_R = matrix_RR.diagonal(dim1=-2, dim2=-1).clamp_min(1e-30).sqrt()
    scale_RR = root_R[..., :, None] * root_R[..., None, :]
    unit_RR = matrix_RR / scale_RR
    ridges = unit_RR.new_full(unit_RR.shape[:-2], ridge)
    while True:
        factor_RR, failed = torch.linalg.cholesky_ex(unit_RR + torch.diag_embed(ridges[..., None].expand_as(root_R)))
        if not failed.any():
            inverse_RR: Tensor = torch.cholesky_inverse(factor_RR)
            return inverse_RR / scale_RR
        ridges = torch.where(failed > 0, 10 * ridges, ridges)
