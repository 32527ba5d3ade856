"""StreamedProblem: a problem whose features are read again in every pass, so that nothing of size N x D is held.

Weights live in the rotated basis and are rotated back for each pass, so that no rotated copy of the features is kept.
Of what has a size of N x K, residuals alone are held, where the memory allows; else scores and residuals are made
again, block by block, in every pass. Weights enter as float32 high and low parts, block sums are float64.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.probe.objective.duality_gap import Moments, moments, repair
from penultimate.engine.probe.objective.losses import Loss, Targets
from penultimate.engine.probe.objective.pieces import gathered_rows, row_products
from penultimate.engine.probe.objective.problem import Gradients, Line, Point, center_over_classes, keep_threads
from penultimate.engine.probe.objective.rotated_features import Basis, SampleMean
from penultimate.engine.runtime.prefetch import prefetch_map

# Shapes: N samples, B of them in a block, D feature dimensions, K classes, S strengths, R = D + 1 rotated columns,
# M = S x K columns of scores, X any leading axes.


class RowBlocks(Protocol):
    """Features that can be gone through again and again, in the same order."""

    @property
    def num_rows(self) -> int:
        """Return the number of rows, N."""
        ...

    def blocks(self, rows: int, device: torch.device) -> Iterator[Tensor]:
        """Yield blocks (B, D), of any float dtype, of at most so many rows on ``device``."""
        ...


@dataclass(frozen=True, slots=True)
class RowSource:
    """Features that are read again for every pass."""

    num_rows: int
    feature_dim: int
    batches: Callable[[int], Iterator[NDArray[Any]]]
    """Function from a number of rows to an iterator over blocks (B, D) of at most as many rows."""

    @classmethod
    def of(cls, features_ND: NDArray[Any]) -> Self:
        """Return the rows of an array in the host's memory."""
        rows, dims = features_ND.shape
        return cls(
            num_rows=rows,
            feature_dim=dims,
            batches=lambda count: (features_ND[first : first + count] for first in range(0, rows, count)),
        )

    def blocks(self, rows: int, device: torch.device) -> Iterator[Tensor]:
        """Yield blocks (B, D) on ``device``: to a GPU from pinned memory, as float32, the next being read meanwhile."""
        if device.type != "cuda":
            for batch_BD in self.batches(rows):
                yield torch.from_numpy(np.require(batch_BD, requirements=["C", "W"]))
            return
        batches = self.batches(rows)
        with ThreadPoolExecutor(1) as executor:  # one: the batches come from one iterator
            for pinned_BD in prefetch_map(executor, lambda _: _pinned(next(batches, None)), count(), depth=2):
                if pinned_BD is None:
                    return
                yield pinned_BD.to(device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class HeldRows:
    """Features that a device holds, float32, so that a pass reads nothing from elsewhere."""

    matrix_ND: Tensor

    @property
    def num_rows(self) -> int:
        """Return the number of rows, N."""
        return self.matrix_ND.shape[0]

    def blocks(self, rows: int, device: torch.device) -> Iterator[Tensor]:
        """Yield views (B, D) of at most so many rows; ``device`` is the one that holds them."""
        yield from self.matrix_ND.split(rows)  # type: ignore[no-untyped-call]  # torch does not type it


def _pinned(batch_BD: NDArray[Any] | None) -> Tensor | None:
    """Return a batch as float32 in pinned memory, from which it is copied while the host goes on."""
    return None if batch_BD is None else torch.from_numpy(batch_BD.astype(np.float32)).pin_memory()


@dataclass(frozen=True, slots=True)
class _Block:
    """Some rows, centred; their sums count as parts of a weighted mean over all rows."""

    centred_BD: Tensor
    sample_mean: SampleMean

    def scores(self, weight_MD: Tensor, bias_M: Tensor) -> Tensor:
        """Return scores (M, B) of these rows, float32."""
        return row_products(weight_MD, self.centred_BD).add_(bias_M.float()[:, None])

    def mean(self, values_XB: Tensor) -> Tensor:
        """Return the part of the mean over all rows that these make."""
        return self.sample_mean.mean(values_XB)

    def weighted(self, values_XB: Tensor) -> tuple[Tensor, float]:
        """Return values and a factor whose product is the values times the weight of their row."""
        return self.sample_mean.weighted(values_XB)


@dataclass(frozen=True, slots=True)
class _Part:
    """A block with the derivatives of its losses."""

    rows: slice
    block: _Block
    targets: Targets
    loss_SB: Tensor | None
    """Losses; None where the derivatives were held."""

    residual_SKB: Tensor


class StreamedProblem:
    """A problem of which every evaluation, gradient and Hessian product is one pass over the rows."""

    def __init__(
        self,
        source: RowBlocks,
        block_rows: int,
        basis: Basis,
        mean_square_R: Tensor,
        loss: Loss,
        targets: Targets,
        *,
        sample_weight_N: Tensor | None = None,
        holds_residuals: bool = False,
        adjust_threads: Callable[[], None] = keep_threads,
    ) -> None:
        """``sample_weight_N`` are float64 and sum to 1, or None where all rows count alike."""
        self.holds_residuals = holds_residuals
        self.adjust_threads = adjust_threads
        self.source, self.block_rows, self.basis = source, block_rows, basis
        self.sample_mean = SampleMean(source.num_rows, sample_weight_N)
        self.loss, self.targets, self.mean_square_R = loss, targets, mean_square_R
        self.bias_column = len(mean_square_R) - 1
        self.penalised_R = torch.ones_like(mean_square_R)
        self.penalised_R[self.bias_column] = 0
        self.rounding, self.precision = torch.finfo(torch.float32).eps, "float32/float32"
        self.operations_per_column = 4.0 * source.num_rows * len(mean_square_R)
        self.passes = 0.0
        self.curvature_passes = 0.0

    def start(self, weight_SKR: Tensor) -> Point:
        """Evaluate weights; one pass."""
        return self._evaluate_on_line(weight_SKR, torch.zeros_like(weight_SKR))[0]

    def rounding_error(self, point: Point) -> Tensor:
        """Return zero: sums over blocks are float64 anyway."""
        return point.loss_S.new_zeros(())

    def gradients(self, point: Point, *, exact: bool) -> Gradients:
        """Return both gradients; one pass. ``exact`` changes nothing."""
        self.passes += 1
        found = repair(self.loss, point.moments)
        dual = _GradientSum(point.weight_SKR, self.bias_column)
        step = dual if self.loss.smooth else _GradientSum(point.weight_SKR, self.bias_column)
        for part in self._parts(point):
            dual.add(part.block, found.apply(self.loss, part.targets, part.residual_SKB))
            if step is not dual:
                step.add(part.block, part.residual_SKB)
        dual_SKR = dual.rotated(self.basis)
        dual_SKR[:, :, self.bias_column] = found.bias_SK
        if step is dual:
            return Gradients(dual_SKR, dual_SKR, found)
        step_SKR = step.rotated(self.basis)
        return Gradients(step_SKR, dual_SKR, found)

    def hessian_product(self, point: Point, direction_SKR: Tensor, *, exact: bool) -> Tensor:
        """Return the Hessian times a direction; one pass, of the strengths alone whose direction is not zero."""
        self.curvature_passes += 1
        product_SKR = torch.zeros_like(direction_SKR, dtype=torch.float64)
        moving_T = direction_SKR.flatten(1).any(1).nonzero()[:, 0]
        direction_TKR = direction_SKR[moving_T].double()
        weight_MD, bias_M = self._unrotate(direction_TKR)
        total = _GradientSum(direction_TKR, self.bias_column)
        for part in self._parts(point, moving_T, rounded=True):
            direction_TKB = part.block.scores(weight_MD.float(), bias_M).view_as(part.residual_SKB)
            total.add(part.block, self.loss.hessian_product(part.residual_SKB, direction_TKB, part.targets))
        product_SKR[moving_T] = center_over_classes(self.loss, total.rotated(self.basis))
        return product_SKR

    products_by_strength = True

    halves = None
    """Scores are not kept."""

    def line(self, point: Point, direction_SKR: Tensor, change_SKN: Tensor | None = None) -> Line:
        """Return the line ``weight + length_S * direction``; a pass for each point on it."""
        return lambda length_S: self._evaluate_on_line(
            point.weight_SKR + length_S[:, None, None] * direction_SKR, direction_SKR
        )

    def _evaluate_on_line(self, weight_SKR: Tensor, direction_SKR: Tensor) -> tuple[Point, Tensor | None]:
        """Return the point and the slope of its loss in a direction, None for a smooth loss."""
        self.passes += 1
        weight_MD, bias_M = self._unrotate(direction_SKR)
        loss_S = slope_S = torch.zeros((), dtype=torch.float64, device=weight_SKR.device)
        total: Moments | None = None
        held_SKN = None
        if self.holds_residuals:
            held_SKN = torch.empty(*weight_SKR.shape[:2], self.source.num_rows, device=weight_SKR.device)
        for part in self._evaluate(weight_SKR):
            block, residual_SKB = part.block, part.residual_SKB
            assert part.loss_SB is not None
            loss_S = loss_S + block.mean(part.loss_SB)
            if not self.loss.smooth:
                scores_SKB = block.scores(weight_MD.float(), bias_M).view_as(residual_SKB)
                slope_S = slope_S + block.mean((residual_SKB * scores_SKB).sum(1))
            found = moments(block, self.loss, part.targets, residual_SKB)
            total = found if total is None else total + found
            if held_SKN is not None:
                held_SKN[:, :, part.rows] = residual_SKB
        assert total is not None
        return Point(weight_SKR, loss_S, total, None, held_SKN), None if self.loss.smooth else slope_S

    def _unrotate(self, weight_SKR: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (M, D) and bias (M,) for centred features, float64."""
        flat_MR = weight_SKR.flatten(0, 1)
        return flat_MR[:, : self.bias_column] @ self.basis.rotation_DR.T, flat_MR[:, self.bias_column]

    def _parts(self, point: Point, moving_T: Tensor | None = None, *, rounded: bool = False) -> Iterator[_Part]:
        """Yield residuals of all strengths, or of some, block by block, as they are held or else made again."""
        some = slice(None) if moving_T is None else moving_T
        held_SKN = point.residual_SKN
        if held_SKN is None:
            yield from self._evaluate(point.weight_SKR[some], rounded=rounded)
            return
        for rows, block, targets in self._blocks():
            yield _Part(rows, block, targets, None, held_SKN[:, :, rows][some])

    def _evaluate(self, weight_SKR: Tensor, *, rounded: bool = False) -> Iterator[_Part]:
        """Yield losses and residuals block by block; where that is enough, of weights ``rounded`` to float32."""
        weight_MD, bias_M = self._unrotate(weight_SKR)
        high_MD = weight_MD.float()
        low_MD = (weight_MD - high_MD).float()
        for rows, block, targets in self._blocks():
            scores_MB = block.scores(high_MD, bias_M)
            if not rounded:
                scores_MB += row_products(low_MD, block.centred_BD)
            scores_SKB = scores_MB.view(*weight_SKR.shape[:2], -1)
            loss_SB, residual_SKB = self.loss.evaluate(scores_SKB, targets, out_SKN=scores_SKB)
            yield _Part(rows, block, targets, loss_SB, residual_SKB)

    def _blocks(self) -> Iterator[tuple[slice, _Block, Targets]]:
        """Yield the rows, block by block, less their mean; the subtraction makes them float32."""
        seen = 0
        for block_BD in self.source.blocks(self.block_rows, self.basis.mean_D.device):
            rows = slice(seen, seen + len(block_BD))
            seen += len(block_BD)
            centred_BD = (block_BD - self.basis.mean_D).float()
            yield rows, _Block(centred_BD, self.sample_mean.rows(rows)), self.targets.rows(rows)


class _GradientSum:
    """The sum over blocks of residual x row, float64."""

    def __init__(self, like_SKR: Tensor, dims: int) -> None:
        self.shape = like_SKR.shape[:2]
        self.weight_MD = like_SKR.new_zeros(self.shape[0] * self.shape[1], dims)
        self.bias_M = like_SKR.new_zeros(self.shape[0] * self.shape[1])

    def add(self, block: _Block, values_SKB: Tensor) -> None:
        values_MB = values_SKB.flatten(0, 1)
        weighted_MB, factor = block.weighted(values_MB)
        self.weight_MD += gathered_rows(weighted_MB, block.centred_BD) * factor
        self.bias_M += block.mean(values_MB)

    def rotated(self, basis: Basis) -> Tensor:
        """Return the sum in the rotated basis, (S, K, R)."""
        rotated_MR = torch.cat([self.weight_MD @ basis.rotation_DR, self.bias_M[:, None]], 1)
        return rotated_MR.view(*self.shape, -1)
