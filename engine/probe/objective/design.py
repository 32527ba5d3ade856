"""Design: centred features in their own eigenbasis, and the products a solver takes with them.

In the eigenbasis of the covariance (of the Gram matrix when there are fewer samples than dimensions) the Hessian of a
linear model is near diagonal, so that a diagonal preconditioner does most of what a full one would. Turning the
features is exact: any orthogonal basis gives the same optimum. A column of ones carries the bias, and zero columns
fill up to a multiple of 32, the tile of matrix units.

Main products run in ``dtype`` and sum in it over blocks of ``ROWS`` rows, blocks in float64; products for the Hessian
run in ``low`` where the machine is faster in it. On a CPU with matrix units, where a C compiler was at hand, features
are kept as two bfloat16 besides, and gradients run on those, with 16 bits (``kernels.py``). W itself is kept in
float64 by the solver.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penultimate.engine.probe.kernels.kernels import ROUNDING, MatrixUnits, library
from penultimate.engine.runtime.capabilities import has_bfloat16_matrix_units

# Shapes: N samples, D feature dimensions, R columns of the turned design, M columns of scores (strengths x classes).

TILE = 32
"""Columns are padded to a multiple of this."""

SMALL = 1 << 20
"""Up to this many features (N x D) everything runs in float64: it costs milliseconds there."""

SMALL_JUMPING = 1 << 25
"""Up to this many, gradients of the squared hinge do: its slack falls with l2 below float32's resolution near 1."""

ROWS = 4096
"""Rows of a block in a float64 product: at 1,280 dimensions the block's copy takes 40 MB."""

SQUARED_ROWS = 256
"""Rows that are squared at once: 1.3 MB of float32 at 1,280 dimensions, a core's second-level cache."""

NARROW = 64
"""Under so many columns of scores their product is faster sample-major: 6 ms against 15 for 40 columns of CIFAR-10."""

WIDE = 64
"""From this many classes on, a Hessian product runs at the speed of the matrix units."""

LOW_ROWS = 20_000
"""From this many rows on, the covariance is taken from bfloat16 products on matrix units: it only chooses a basis."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Where the features were moved and turned: turned = (features - mean) @ turn."""

    mean_D: Tensor
    turn_DR: Tensor
    """Orthonormal columns, without bias and padding, in the dtype of the features."""

    units: MatrixUnits | None = None
    """``turn_DR`` on matrix units, where there are some."""

    def weight(self, weight_MR: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (M, D) in the features' dtype and bias (M,) float64 for them as they were, from turned weights."""
        rank = self.turn_DR.shape[1]
        turned_MR = weight_MR[:, :rank].to(self.turn_DR.dtype)
        weight_MD = turned_MR @ self.turn_DR.T if self.units is None else self.units.scores(turned_MR)
        return weight_MD, weight_MR[:, rank].double() - weight_MD.double() @ self.mean_D.double()

    def turned(self, weight_KD: Tensor, bias_K: Tensor, *, out_KR: Tensor) -> None:
        """The reverse of ``weight``, into ``out_KR``; the part of the weights that no feature sees is dropped."""
        rank = self.turn_DR.shape[1]
        weight_KD = weight_KD.to(out_KR)
        out_KR[:, :rank] = weight_KD @ self.turn_DR.to(out_KR)
        out_KR[:, rank] = bias_K.to(out_KR) + weight_KD @ self.mean_D.double()


def fast_low_precision(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the machine has matrix units for it, else None."""
    return torch.bfloat16 if has_bfloat16_matrix_units(device) else None


class Design:
    """Turned features with their products; what the solver needs of the data, apart from labels."""

    def __init__(
        self, features_ND: Tensor, *, share_N: Tensor | None, dtype: torch.dtype, low: torch.dtype | None
    ) -> None:
        """``share_N``: float64 weights of the samples, summing to 1, or None where all count alike."""
        self.share_N = share_N
        self.basis, centred_ND = turn(features_ND.to(dtype), share_N)
        rows, rank = len(features_ND), self.basis.turn_DR.shape[1]
        columns = -(-(rank + 1) // TILE) * TILE
        self.matrix_NR = torch.empty(rows, columns, dtype=dtype, device=features_ND.device)
        torch.mm(centred_ND, self.basis.turn_DR, out=self.matrix_NR[:, :rank])
        del centred_ND  # whose memory the copies below take
        self.matrix_NR[:, rank] = 1
        self.matrix_NR[:, rank + 1 :] = 0
        self.bias_column = rank
        self.units: MatrixUnits | None = None
        self.low_NR = self.matrix_NR
        if low is not None and self._on_units():
            self.units = MatrixUnits(self.matrix_NR)
            self.low_NR = self.units.high_NR
            if rank % TILE == 0:
                self.basis = replace(self.basis, units=MatrixUnits(self.basis.turn_DR))
        elif low is not None:
            self.low_NR = self.matrix_NR.to(low)
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
        low = str(self.low_NR.dtype).removeprefix("torch.")
        return f"{'2xbfloat16' if self.units else str(self.matrix_NR.dtype).removeprefix('torch.')}/{low}"

    @property
    def rounding(self) -> float:
        """Relative, of a mean over samples; as two bfloat16 each product is rounded on its own."""
        own = torch.finfo(self.matrix_NR.dtype).eps
        return own if self.units is None else max(own, ROUNDING / math.sqrt(self.num_rows))

    def _on_units(self) -> bool:
        return self.matrix_NR.dtype == torch.float32 and self.matrix_NR.device.type == "cpu" and library() is not None

    def scores(self, weight_MR: Tensor) -> Tensor:
        """weight @ design.T, (M, N)."""
        return weight_MR.to(self.matrix_NR.dtype) @ self.matrix_NR.T

    def gather(self, residual_MN: Tensor, *, exact: bool = False) -> Tensor:
        """Weighted mean over samples of residual x row, (M, R) float64; ``exact`` multiplies and sums in float64."""
        weighted_MN, scale = self.weighted(residual_MN)
        if not exact and self.units is not None:
            return self.units.gather(weighted_MN, scale)
        if not exact and self.num_rows <= ROWS:
            return (weighted_MN @ self.matrix_NR).double() * scale
        total_MR = torch.zeros(
            residual_MN.shape[0], self.matrix_NR.shape[1], dtype=torch.float64, device=residual_MN.device
        )
        wide_BR = torch.empty(ROWS, self.matrix_NR.shape[1], dtype=torch.float64, device=residual_MN.device)
        for start in range(0, self.num_rows, ROWS):
            left, right = weighted_MN[:, start : start + ROWS], self.matrix_NR[start : start + ROWS]
            if exact:  # into the same memory each time: a new copy's page faults took longer than the product
                total_MR.addmm_(left.double(), wide_BR[: len(right)].copy_(right))
            else:
                total_MR += left @ right
        return total_MR * scale

    def size(self, residual_SKN: Tensor) -> float:
        """Root mean square over samples of the residual's norm, the largest of the strengths."""
        if self.share_N is None:
            return float(torch.linalg.vector_norm(residual_SKN, dim=(1, 2)).max()) / math.sqrt(self.num_rows)
        return float(self.mean(residual_SKN.square().sum(1)).sqrt().max())

    def weighted(self, values_XN: Tensor) -> tuple[Tensor, float]:
        """Values and a number whose product is the values times the share of their sample."""
        return (values_XN, 1 / self.num_rows) if self.share_N is None else (self.shared(values_XN), 1.0)

    def low(self, direction_MR: Tensor) -> Tensor:
        """At the precision of Hessian products."""
        return direction_MR.to(self.low_NR.dtype)

    def low_scores(self, direction_MR: Tensor, rows: slice) -> Tensor:
        """As ``scores`` of some rows, multiplied at the precision of Hessian products, in the main dtype."""
        low_BR = self.low_NR[rows]
        scores_MB = (low_BR @ direction_MR.T).T if len(direction_MR) < NARROW else direction_MR @ low_BR.T
        return scores_MB.contiguous().to(self.matrix_NR.dtype)

    def low_gather(self, change_MB: Tensor, rows: slice) -> Tensor:
        """As ``gather`` of some rows, at the precision of Hessian products."""
        if self.share_N is None:
            return (self.low(change_MB) @ self.low_NR[rows]) / self.num_rows
        return self.low(change_MB * self.share_N[rows].to(change_MB.dtype)) @ self.low_NR[rows]

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
        for start in range(0, self.num_rows, SQUARED_ROWS):
            rows = slice(start, start + SQUARED_ROWS)
            squares_NR = self.matrix_NR[rows].square()
            share_N = None if self.share_N is None else self.share_N[rows].to(squares_NR.dtype)
            total_R += squares_NR.sum(0) / self.num_rows if share_N is None else share_N @ squares_NR
        return total_R.to(self.matrix_NR.dtype)


def turn(features_ND: Tensor, share_N: Tensor | None) -> tuple[Basis, Tensor]:
    """An orthonormal basis of all that the features span, in which their covariance is near diagonal; them, centred.

    With fewer samples than dimensions the span comes from a QR factorisation, so that N columns carry everything. No
    direction is left out for its small variance: at weak l2 the optimum may use it.
    """
    rows, dims = features_ND.shape
    mean_D = features_ND.mean(0, dtype=torch.float64) if share_N is None else share_N @ features_ND.double()
    mean_D = mean_D.to(features_ND.dtype)
    centred_ND = features_ND - mean_D
    if rows >= dims:
        turn_DR = _principal(centred_ND, share_N)
    else:
        span_DN: Tensor = torch.linalg.qr(centred_ND.T)[0]
        turn_DR = span_DN @ _principal(centred_ND @ span_DN, share_N)
    return Basis(mean_D, turn_DR), centred_ND


def _principal(centred_NR: Tensor, share_N: Tensor | None) -> Tensor:
    """Eigenvectors of the weighted covariance, largest first; with many rows at low precision."""
    many = len(centred_NR) >= LOW_ROWS and centred_NR.dtype == torch.float32
    right_NR = centred_NR.to((fast_low_precision(centred_NR.device) if many else None) or centred_NR.dtype)
    left_NR = right_NR if share_N is None else right_NR * share_N.to(right_NR.dtype)[:, None]
    covariance_RR = (left_NR.T @ right_NR).to(centred_NR.dtype)
    vectors_RR: Tensor = torch.linalg.eigh((covariance_RR + covariance_RR.T) / 2)[1]
    return vectors_RR.flip(1)
