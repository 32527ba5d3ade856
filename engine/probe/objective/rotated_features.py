"""RotatedFeatures: features centred and rotated into their principal axes, with the weights of the samples.

In the eigenbasis of the covariance (of the Gram matrix when there are fewer samples than dimensions) the Hessian of a
linear model is near diagonal, so that a diagonal preconditioner does most of what a full one would. Rotating the
features is exact: any orthogonal basis gives the same optimum. A column of ones carries the bias, and zero columns
fill up to a multiple of 32, the number of bfloat16 in a row of an AMX tile.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from penultimate.engine.probe.objective.pieces import pieces, row_products, wide_product
from penultimate.engine.runtime.capabilities import has_bfloat16_matrix_units

# Shapes: N samples, D feature dimensions, R columns of the rotated features, M columns of scores (strengths x classes),
# X any leading axes.

TILE = 32
"""Number of which the padded columns are a multiple."""

SQUARED_ROWS = 256
"""Number of rows squared at once: 1.3 MB of float32 at 1,280 dimensions, a core's second-level cache."""

FEW_ROWS = 4096
"""Number of rows of which a second copy is no matter: at 1,280 dimensions it takes 21 MB."""

LOW_ROWS = 20_000
"""Number of rows from which the covariance is taken from bfloat16 products, or where those would be emulated from so
many rows at most, evenly spaced: it only chooses a basis."""


@dataclass(frozen=True, slots=True)
class SampleMean:
    """Weighted means over all samples, or the part of them that some samples make."""

    num_rows: int
    """Number of all samples, N."""

    sample_weight_N: Tensor | None
    """Weights of the samples at hand, float64, which sum to 1 over all; None where all samples count alike."""

    def rows(self, rows: slice) -> "SampleMean":
        """Return the part that some samples make."""
        return SampleMean(self.num_rows, None if self.sample_weight_N is None else self.sample_weight_N[rows])

    def mean(self, values_XN: Tensor) -> Tensor:
        """Return the sum over the samples at hand (the last axis) of weight times value, float64."""
        if self.sample_weight_N is not None:
            return (values_XN.double() * self.sample_weight_N).sum(-1)
        if values_XN.shape[-1] == self.num_rows:
            return values_XN.mean(-1, dtype=torch.float64)
        return values_XN.sum(-1, dtype=torch.float64) / self.num_rows

    def weighted(self, values_XN: Tensor) -> tuple[Tensor, float]:
        """Return values and a factor whose product is the values times the weight of their sample."""
        if self.sample_weight_N is None:
            return values_XN, 1 / self.num_rows
        return self.times_weight(values_XN), 1.0

    def times_weight(self, values_XN: Tensor) -> Tensor:
        """Return the values times the weight of their sample."""
        if self.sample_weight_N is None:
            return values_XN / self.num_rows
        return values_XN * self.sample_weight_N.to(values_XN.dtype)


@dataclass(frozen=True, slots=True)
class Basis:
    """The change of coordinates: rotated = (features - mean) @ rotation."""

    mean_D: Tensor
    rotation_DR: Tensor
    """Orthonormal columns, without bias and padding, in the dtype of the features."""

    @property
    def rank(self) -> int:
        """Return the number of rotated columns, without bias and padding."""
        return self.rotation_DR.shape[1]

    def spans(self, features_ND: Tensor) -> bool:
        """Return whether every feature of these is a sum of the axes, computed in the same way."""
        dims, rotation = features_ND.shape[1], self.rotation_DR
        return rotation.shape == (dims, dims) and (rotation.dtype, rotation.device) == (
            features_ND.dtype,
            features_ND.device,
        )

    def unrotate(self, weight_MR: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (M, D) in the features' dtype and biases (M,) float64 for the original features."""
        weight_MD = weight_MR[:, : self.rank].to(self.rotation_DR.dtype) @ self.rotation_DR.T
        return weight_MD, self.unrotated_bias(weight_MR, weight_MD)

    def unrotated_bias(self, weight_MR: Tensor, weight_MD: Tensor) -> Tensor:
        """Return the biases (M,) float64 for the original features, from both forms of the weights."""
        return weight_MR[:, self.rank].double() - weight_MD.double() @ self.mean_D.double()

    def rotate(self, weight_KD: Tensor, bias_K: Tensor, *, out_KR: Tensor) -> None:
        """Write the reverse of ``unrotate`` to ``out_KR``; the part of the weights that no feature sees is dropped.

        Multiplied in the dtype of the rotation: good enough for a start.
        """
        weight_KD = weight_KD.to(self.rotation_DR)
        out_KR[:, : self.rank] = weight_KD @ self.rotation_DR
        out_KR[:, self.rank] = bias_K.to(out_KR) + weight_KD.to(out_KR) @ self.mean_D.to(out_KR)


class RotatedFeatures:
    """Rotated features held in memory, with weighted means over the samples."""

    def __init__(
        self,
        features_ND: Tensor,
        *,
        sample_weight_N: Tensor | None,
        dtype: torch.dtype,
        rotate: bool = True,
        like: Basis | None = None,
    ) -> None:
        """Rotate ``features_ND`` in ``dtype``; or only centre them, which is quicker and enough for a certificate.

        ``like`` is the basis of much the same features, whose axes are taken where they span everything.
        ``sample_weight_N`` are float64 and sum to 1, or None where all samples count alike.
        """
        self.sample_weight_N = sample_weight_N
        features_ND = features_ND.to(dtype)
        if not rotate:
            self.basis, centred_ND = own_axes(features_ND, sample_weight_N)
        elif like is not None and like.spans(features_ND):
            mean_D, centred_ND = _centred(features_ND, sample_weight_N)
            self.basis = Basis(mean_D, like.rotation_DR)
        else:
            self.basis, centred_ND = principal_axes(features_ND, sample_weight_N)
        rows, rank = len(features_ND), self.basis.rank
        columns = padded_columns(rank)
        self.matrix_NR = torch.empty(rows, columns, dtype=dtype, device=features_ND.device)
        if rotate:
            torch.mm(centred_ND, self.basis.rotation_DR, out=self.matrix_NR[:, :rank])
        else:
            self.matrix_NR[:, :rank] = centred_ND
        self.matrix_NR[:, rank] = 1
        self.matrix_NR[:, rank + 1 :] = 0
        self.bias_column = rank
        self.mean_square_R = self._mean_squares()
        self.penalised_R = torch.ones(columns, dtype=dtype, device=features_ND.device)
        self.penalised_R[rank] = 0
        self.root_mean_square = float(self.mean_square_R.double().sum().sqrt())

    @property
    def num_rows(self) -> int:
        """Return the number of samples, N."""
        return self.matrix_NR.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the features and of products at full precision."""
        return self.matrix_NR.dtype

    @cached_property
    def by_columns_NR(self) -> Tensor:
        """The matrix for products that sum over its rows: of few rows on a CPU a copy that is kept by columns.

        On an EPYC with AVX2 they took 8.3 ms for 102 columns of scores instead of 9.6.
        """
        if self.matrix_NR.is_cuda or self.num_rows > FEW_ROWS:
            return self.matrix_NR
        return self.matrix_NR.T.contiguous().T

    def scores(self, weight_MR: Tensor) -> Tensor:
        """Return weight @ features.T, (M, N), at full precision."""
        weight_MR = weight_MR.to(self.dtype)
        return weight_MR @ self.matrix_NR.T if weight_MR.is_cuda else row_products(weight_MR, self.matrix_NR)

    @property
    def sample_mean(self) -> SampleMean:
        """Return the weighted mean over the samples."""
        return SampleMean(self.num_rows, self.sample_weight_N)

    def mean(self, values_XN: Tensor) -> Tensor:
        """Return the weighted mean over samples (the last axis), float64."""
        return self.sample_mean.mean(values_XN)

    def weighted(self, values_XN: Tensor) -> tuple[Tensor, float]:
        """Return values and a factor whose product is the values times the weight of their sample."""
        return self.sample_mean.weighted(values_XN)

    def times_sample_weight(self, values_XN: Tensor) -> Tensor:
        """Return the values times the weight of their sample."""
        return self.sample_mean.times_weight(values_XN)

    def residual_size(self, residual_SKN: Tensor) -> Tensor:
        """Return the root mean square over samples of the residual's norm, the largest of the strengths, float64."""
        if self.sample_weight_N is None:
            norm_S: Tensor = torch.linalg.vector_norm(residual_SKN, dim=(1, 2))
            return norm_S.max().double() / math.sqrt(self.num_rows)
        strengths, classes, rows = residual_SKN.shape
        squares = [
            self.sample_mean.rows(some).mean(residual_SKN[:, :, some].square().sum(1))
            for some in pieces(rows, strengths * classes, residual_SKN.device)
        ]
        return torch.stack(squares).sum(0).sqrt().max()

    def _mean_squares(self) -> Tensor:
        total_R = torch.zeros(self.matrix_NR.shape[1], dtype=torch.float64, device=self.matrix_NR.device)
        for start in range(0, self.num_rows, SQUARED_ROWS):
            rows = slice(start, start + SQUARED_ROWS)
            squares_BR = self.matrix_NR[rows].square()
            if self.sample_weight_N is None:
                total_R += squares_BR.sum(0) / self.num_rows
            else:
                total_R += self.sample_weight_N[rows].to(squares_BR.dtype) @ squares_BR
        return total_R.to(self.dtype)


def padded_columns(rank: int) -> int:
    """Return the number of rotated columns, R, with the bias and padding."""
    return -(-(rank + 1) // TILE) * TILE


def principal_axes(features_ND: Tensor, sample_weight_N: Tensor | None) -> tuple[Basis, Tensor]:
    """Return an orthonormal basis of all that the features span, with near diagonal covariance, and them centred.

    With fewer samples than dimensions the span comes from a QR factorisation, so that N columns carry everything. No
    direction is left out for its small variance: at weak l2 the optimum may use it.
    """
    rows, dims = features_ND.shape
    mean_D, centred_ND = _centred(features_ND, sample_weight_N)
    if rows >= dims:
        rotation_DR = _eigenvectors(centred_ND, sample_weight_N)
    else:
        span_DN: Tensor = torch.linalg.qr(centred_ND.T)[0]
        rotation_DR = span_DN @ _eigenvectors(centred_ND @ span_DN, sample_weight_N)
    return Basis(mean_D, rotation_DR), centred_ND


def own_axes(features_ND: Tensor, sample_weight_N: Tensor | None) -> tuple[Basis, Tensor]:
    """Return the basis in which the features are given, and them centred."""
    mean_D, centred_ND = _centred(features_ND, sample_weight_N)
    return Basis(mean_D, torch.eye(len(mean_D), dtype=mean_D.dtype, device=mean_D.device)), centred_ND


def _centred(features_ND: Tensor, sample_weight_N: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the weighted mean and the features less it."""
    if sample_weight_N is None:
        mean_D = features_ND.mean(0, dtype=torch.float64)
    else:
        mean_D = sample_weight_N @ features_ND.double()
    mean_D = mean_D.to(features_ND.dtype)
    return mean_D, features_ND - mean_D


def _eigenvectors(centred_NR: Tensor, sample_weight_N: Tensor | None) -> Tensor:
    """Return eigenvectors of the weighted covariance, largest first; of many rows it is taken in a cheaper way."""
    right_NR = centred_NR
    if len(centred_NR) >= LOW_ROWS and centred_NR.dtype == torch.float32:
        if has_bfloat16_matrix_units(centred_NR.device):
            right_NR = centred_NR.bfloat16()
        else:
            some = slice(None, None, -(-len(centred_NR) // LOW_ROWS))
            right_NR = centred_NR[some]
            sample_weight_N = None if sample_weight_N is None else sample_weight_N[some]
    left_NR = right_NR if sample_weight_N is None else right_NR * sample_weight_N.to(right_NR.dtype)[:, None]
    covariance_RR = wide_product(left_NR.T, right_NR).to(centred_NR.dtype)
    vectors_RR: Tensor = torch.linalg.eigh((covariance_RR + covariance_RR.T) / 2)[1]
    return vectors_RR.flip(1)
