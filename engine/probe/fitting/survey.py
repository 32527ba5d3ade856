"""The first pass over streamed features: a basis, the mean squares of its columns and a sample of rows."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.probe.fitting.fit import check_features
from penultimate.engine.probe.objective.rotated_features import LOW_ROWS, Basis
from penultimate.engine.probe.objective.streamed import HeldRows, RowSource

# Shapes: N samples, B of them in a block, C of a block's, n of them in the sample, D feature dimensions, R = D + 1
# rotated columns.

BASIS_ROWS = 16
"""Number of rows for each dimension that the basis is taken from, and ``LOW_ROWS`` at least.

The covariance of all 1,800,000 rows x 2,048 would take as long as twenty Hessian products for 50 columns of scores.
"""


@dataclass(frozen=True, slots=True)
class Survey:
    """Results of the first pass over the features."""

    basis: Basis
    mean_square_R: Tensor
    """Mean squares of the rotated columns, float64."""

    rows_n: NDArray[np.int64]
    """Row numbers of the sample."""

    sample_nD: NDArray[np.float32]
    held: HeldRows | None
    """All features, where the device holds them."""


def survey_of(
    source: RowSource, weight_N: Tensor | None, *, rows: int, block_rows: int, device: torch.device, hold: bool
) -> Survey:
    """Find the basis, the mean squares of its columns and an evenly spaced sample of at most ``rows``, in one pass.

    The basis and what belongs to it only make steps good, and are of so many rows as tell, evenly spaced. ``weight_N``
    are float64 and sum to 1, or None where all rows count alike. ``hold`` all rows on the device as well.
    """
    num_rows, dims = source.num_rows, source.feature_dim
    held_ND = torch.empty(num_rows if hold else 0, dims, device=device)
    stride, basis_stride = -(-num_rows // rows), max(1, num_rows // max(LOW_ROWS, BASIS_ROWS * dims))
    spread = _Spread(dims, device)
    sampled, pieces, seen = [], [], 0
    for batch_BD in source.batches(block_rows):
        check_features(batch_BD, first_row=seen)
        if hold:
            held_ND[seen : seen + len(batch_BD)] = torch.from_numpy(batch_BD.astype(np.float32)).to(device)
        picked = _every(basis_stride, seen, len(batch_BD))
        weight_C = None if weight_N is None else weight_N[torch.from_numpy(picked + seen).to(device)] * num_rows
        spread.add(torch.from_numpy(batch_BD[picked].astype(np.float32)).to(device), weight_C)
        picked = _every(stride, seen, len(batch_BD))
        sampled.append(picked + seen)
        pieces.append(batch_BD[picked].astype(np.float32))
        seen += len(batch_BD)
    basis, mean_square_R = spread.principal_axes()
    held = HeldRows(held_ND) if hold else None
    return Survey(basis, mean_square_R, np.concatenate(sampled), np.concatenate(pieces), held)


def _every(stride: int, seen: int, length: int) -> NDArray[np.int64]:
    """Return which of the next ``length`` rows, after those ``seen``, are picked where one in ``stride`` is."""
    return np.arange((-seen) % stride, length, stride)


class _Spread:
    """Sums over blocks of rows that their mean and covariance are made from, float64."""

    def __init__(self, dims: int, device: torch.device) -> None:
        self.weight = torch.zeros((), dtype=torch.float64, device=device)
        self.total_D = torch.zeros(dims, dtype=torch.float64, device=device)
        self.moment_DD = torch.zeros(dims, dims, dtype=torch.float64, device=device)
        self.origin_D: Tensor | None = None
        """Mean of the first block: sums about it do not cancel."""

    def add(self, block_CD: Tensor, weight_C: Tensor | None) -> None:
        """Add rows, float32, with their weights, float64; None: all count as 1."""
        self.origin_D = block_CD.mean(0) if self.origin_D is None else self.origin_D
        moved_CD = block_CD - self.origin_D
        weighted_CD = moved_CD if weight_C is None else moved_CD * weight_C[:, None].float()
        self.weight += len(block_CD) if weight_C is None else weight_C.sum()
        self.total_D += weighted_CD.sum(0, dtype=torch.float64)
        self.moment_DD += weighted_CD.T @ moved_CD

    def principal_axes(self) -> tuple[Basis, Tensor]:
        """Return the basis, largest variance first, and the mean squares of its columns and the bias's."""
        assert self.origin_D is not None
        shift_D = self.total_D / self.weight
        variance_R, rotation_DR = torch.linalg.eigh(self.moment_DD / self.weight - torch.outer(shift_D, shift_D))
        mean_square_R = torch.cat([variance_R.flip(0).clamp_min(0), variance_R.new_ones(1)])
        return Basis((self.origin_D + shift_D).float(), rotation_DR.flip(1)), mean_square_R
