"""The inverse of a symmetric matrix that ought to be positive definite and that rounding may have made indefinite."""

import torch
from torch import Tensor

# Shapes: R rows and columns.


def ridged_inverse(matrix_RR: Tensor, ridge: float) -> Tensor:
    """Of the matrix scaled to a unit diagonal plus ``ridge``, times 10 until it is positive definite; scaled back."""
    root_R = matrix_RR.diagonal().clamp_min(1e-30).sqrt()
    unit_RR = matrix_RR / root_R[:, None] / root_R[None, :]
    while True:
        factor_RR, failed = torch.linalg.cholesky_ex(unit_RR + ridge * torch.eye(len(unit_RR)).to(unit_RR))
        if not failed:
            inverse_RR: Tensor = torch.cholesky_inverse(factor_RR)
            return inverse_RR / root_R[:, None] / root_R[None, :]
        ridge *= 10
