"""Design: centred features in their own eigenbasis, and the products a solver takes with them.

In the eigenbasis of the covariance (of the Gram matrix when there are fewer samples than dimensions) the Hessian of a
linear model is near diagonal, so that a diagonal preconditioner does most of what a full one would. Turning the
features is exact: any orthogonal basis gives the same optimum. A column of ones carries the bias, and zero columns
fill up to a multiple of 32, the tile of matrix units.

Main products run in ``dtype`` and sum in it over blocks of ``ROWS`` rows, blocks in float64; products for the Hessian
run in ``low`` where the machine is faster in it. W itself is kept in float64 by the solver.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Shapes: N samples, D feature dimensions, R columns of the turned design, M columns of scores (strengths x classes).

TILE = 32
"""Columns are padded to a multiple of this."""

SMALL = 1 << 20
"""Up to this many features (N x D) everything runs in float64: it costs milliseconds there."""

ROWS = 8192
"""Rows of a block in a float64 product: the block's copy stays under 100 MB at 1,280 dimensions."""

LOW_ROWS = 20_000
"""From this many rows on, the covariance is taken from bfloat16 products: it only chooses a basis."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Where the features were moved and turned: turned = (features - mean) @ turn."""

    mean_D: Tensor
    turn_DR: Tensor
    """Orthonormal columns, without bias and padding."""

    def weight(self, weight_MR: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (M, D) and bias (M,) for the features as they were, from weights for the turned design."""
        rank = self.turn_DR.shape[1]
        weight_MD = weight_MR[:, :rank].double() @ self.turn_DR.double().T
        return weight_MD, weight_MR[:, rank].double() - weight_MD @ self.mean_D.double()


def fast_low_precision(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the machine has matrix units for it, else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else None
    return torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16", False) else None


class Design:
    """Turned features with their products; what the solver needs of the data, apart from labels."""

    def __init__(self, features_ND: Tensor, *, share_N: Tensor | None, dtype: torch.dtype, low: torch.dtype | None) -> None:
        """``share_N``: float64 weights of the samples, summing to 1, or None where all count alike."""
        self.share_N = share_N
        self.basis, turned_NR = turn(features_ND.to(dtype), share_N)
        rows, rank = turned_NR.shape
        columns = -(-(rank + 1) // TILE) * TILE
        self.matrix_NR = torch.zeros(rows, columns, dtype=dtype, device=features_ND.device)
        self.matrix_NR[:, :rank] = turned_NR
        self.matrix_NR[:, rank] = 1
        self.bias_column = rank
        self.low_NR = self.matrix_NR.to(low) if low is not None else self.matrix_NR
        self.scale_R = self._mean_squares()
        self.penalised_R = torch.ones(columns, dtype=dtype, device=features_ND.device)
        self.penalised_R[rank] = 0
        self.root_mean_square = float(self.scale_R.double().sum().sqrt())

    @property
    def num_rows(self) -> int:
        """N."""
        return self.matrix_NR.shape[0]

    @property
    def precision(self) -> str:
        """Gradient/Hessian, as a SolveReport prints it."""
        return "/".join(str(matrix.dtype).removeprefix("torch.") for matrix in (self.matrix_NR, self.low_NR))

    def scores(self, weight_MR: Tensor) -> Tensor:
        """weight @ design.T, (M, N)."""
        return weight_MR.to(self.matrix_NR.dtype) @ self.matrix_NR.T

    def gather(self, residual_MN: Tensor, *, exact: bool = False) -> Tensor:
        """Weighted mean over samples of residual x row, (M, R) float64; ``exact`` multiplies and sums in float64."""
        shared_MN = self.shared(residual_MN)
        if not exact and self.num_rows <= ROWS:
            return (shared_MN @ self.matrix_NR).double()
        total_MR = torch.zeros(
            residual_MN.shape[0], self.matrix_NR.shape[1], dtype=torch.float64, device=residual_MN.device
        )
        for start in range(0, self.num_rows, ROWS):
            rows = slice(start, start + ROWS)
            left, right = shared_MN[:, rows], self.matrix_NR[rows]
            total_MR += left.double() @ right.double() if exact else left @ right
        return total_MR

    def low_scores(self, direction_MR: Tensor) -> Tensor:
        """As ``scores``, at the precision of Hessian products."""
        return (direction_MR.to(self.low_NR.dtype) @ self.low_NR.T).to(self.matrix_NR.dtype)

    def low_gather(self, change_MN: Tensor) -> Tensor:
        """As ``gather``, at the precision of Hessian products, in the main dtype."""
        return (self.shared(change_MN).to(self.low_NR.dtype) @ self.low_NR).to(self.matrix_NR.dtype)

    def mean(self, values_XN: Tensor) -> Tensor:
        """Weighted mean over samples (the last axis), float64."""
        if self.share_N is None:
            return values_XN.mean(-1, dtype=torch.float64)
        return (values_XN.double() * self.share_N).sum(-1)

    def shared(self, values_MN: Tensor) -> Tensor:
        """Values times the share of their sample."""
        if self.share_N is None:
            return values_MN / self.num_rows
        return values_MN * self.share_N.to(values_MN.dtype)

    def _mean_squares(self) -> Tensor:
        total_R = torch.zeros(self.matrix_NR.shape[1], dtype=torch.float64, device=self.matrix_NR.device)
        for start in range(0, self.num_rows, ROWS):
            rows = slice(start, start + ROWS)
            squares_NR = self.matrix_NR[rows].square()
            share_N = None if self.share_N is None else self.share_N[rows].to(squares_NR.dtype)
            total_R += squares_NR.sum(0) / self.num_rows if share_N is None else share_N @ squares_NR
        return total_R.to(self.matrix_NR.dtype)


def turn(features_ND: Tensor, share_N: Tensor | None) -> tuple[Basis, Tensor]:
    """The eigenbasis of the weighted covariance, or of the Gram matrix when N < D, and the features in it.

    Directions whose variance is below rounding of the largest are left out: no weight can act through them.
    """
    rows, dims = features_ND.shape
    mean_D = (features_ND.mean(0, dtype=torch.float64) if share_N is None else share_N @ features_ND.double()).to(
        features_ND.dtype
    )
    centred_ND = features_ND - mean_D
    shared_ND = centred_ND / rows if share_N is None else centred_ND * share_N.to(centred_ND.dtype)[:, None]
    rounding = torch.finfo(features_ND.dtype).eps
    if rows >= dims:
        turn_DR = _covariance_basis(centred_ND, shared_ND, rounding)
    else:
        turn_DR = _gram_basis(centred_ND, rounding)
    return Basis(mean_D, turn_DR), centred_ND @ turn_DR


def _covariance_basis(centred_ND: Tensor, shared_ND: Tensor, rounding: float) -> Tensor:
    if len(centred_ND) >= LOW_ROWS and centred_ND.dtype == torch.float32:
        covariance_DD = (shared_ND.T.bfloat16() @ centred_ND.bfloat16()).float()
        covariance_DD = (covariance_DD + covariance_DD.T) / 2
        return torch.linalg.eigh(covariance_DD)[1].flip(1)
    variance_R, turn_DR = torch.linalg.eigh(shared_ND.T @ centred_ND)
    return turn_DR[:, variance_R > rounding * variance_R[-1].clamp_min(0)].flip(1)


def _gram_basis(centred_ND: Tensor, rounding: float) -> Tensor:
    values_N, vectors_NR = torch.linalg.eigh(centred_ND @ centred_ND.T)
    kept = values_N > rounding * len(centred_ND) * values_N[-1].clamp_min(0)
    turn_DR = centred_ND.T @ (vectors_NR[:, kept] / values_N[kept].sqrt())
    return torch.linalg.qr(turn_DR.flip(1))[0]
