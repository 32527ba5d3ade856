"""The path on features larger than memory: every pass streams them once and serves all strengths of a block.

A first pass takes mean, covariance and a sample of rows. The path on that sample, in memory, gives every strength its
start; Newton's steps on all rows then need few passes. Weights live in the turned basis and are turned back for each
pass, so that no turned copy of the features is kept. Nothing of size N x D or N x K is held: scores and residuals are
made anew, block by block, in every pass. Weights enter as float32 high and low parts, block sums are float64.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.probe.fit import (
    active_classes,
    check_features,
    check_labels,
    class_counts,
    expand,
    fit_path,
    make_probe,
    make_targets,
    torch_device,
)
from penultimate.engine.probe.objective.design import Basis
from penultimate.engine.probe.objective.duality_gap import Moments, moments, repair
from penultimate.engine.probe.objective.in_memory import Gradients, Line, Point, spread
from penultimate.engine.probe.objective.losses import LOSSES, Loss, Targets
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.preconditioners.choose import Preconditioner
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.solver.newton import Newton
from penultimate.store.errors import InputError, UnknownNameError

# Shapes: N samples, B of them in a block, D feature dimensions, K classes, A classes that have samples, S strengths,
# R = D + 1 turned columns, M = S x K columns of scores.

VECTORS = 16
"""Arrays of the weights' shape, float64, that Newton and CG hold at once."""

FEWEST_ROWS = 64
"""Of a block, at least."""

SAMPLE_SLACK = 2.0
"""The sample's path is solved to this many times the gap asked for: it only gives the starts."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """Features that can be read again and again, in the same order."""

    num_rows: int
    feature_dim: int
    batches: Callable[[int], Iterator[NDArray[Any]]]
    """Blocks (B, D) of at most so many rows."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a memory limit is spent."""

    block_rows: int
    sample_rows: int
    strengths: int

    @classmethod
    def of(cls, source: RowSource, *, classes: int, strengths: int, memory_bytes: int) -> "_Plan":
        """A quarter each for the sample, the weights, the blocks, and the covariance with what libraries need."""
        dims = source.feature_dim
        vectors, row, column = VECTORS * 8 * classes * (dims + 1), 4 * 4 * dims, 4 * 8 * classes
        least = 4 * max(vectors, FEWEST_ROWS * (row + column), 4 * 8 * dims * dims)
        if memory_bytes < least:
            raise InputError(
                f"a memory limit of {memory_bytes / 2**20:,.0f} MiB is too little for {classes} classes of "
                f"{dims} dimensions; give at least {math.ceil(least / 2**20):,} MiB"
            )
        share = memory_bytes // 4
        together = min(strengths, share // vectors, (share // FEWEST_ROWS - row) // column)
        rows = share // (row + together * column)
        return cls(
            block_rows=min(rows, source.num_rows), sample_rows=min(source.num_rows, share // row), strengths=together
        )


def fit_streamed(
    source: RowSource,
    labels: NDArray[Any],
    *,
    num_classes: int,
    path: RegularizationPath,
    memory_bytes: int,
    loss: str = "softmax",
    tol: float = 1e-4,
    device: str = "cpu",
    start: Probe | None = None,
) -> list[Probe]:
    """As ``fit_path``, with about ``memory_bytes`` besides what the libraries take; labels are held in memory."""
    if loss not in LOSSES:
        raise UnknownNameError("loss", loss, LOSSES)
    chosen, place = LOSSES[loss], torch_device(device)
    check_labels(labels, source.num_rows, num_classes, multi_label=loss != "softmax")
    count_K = class_counts(labels, num_classes)
    active_A = active_classes(count_K, source.num_rows, chosen)
    plan = _Plan.of(source, classes=len(active_A), strengths=len(path), memory_bytes=memory_bytes)
    with torch.no_grad():
        basis, scale_R, rows_n, sample_nD = _survey(source, plan, place)
        starts = [start] * len(path)
        if start is None:
            starts = _sample_path(sample_nD, labels[rows_n], source.num_rows, path, num_classes, loss, tol, device)
        del sample_nD
        targets = make_targets(labels, active_A, chosen, dtype=torch.float32, device=place)
        problem = Streamed(source, plan.block_rows, basis, scale_R, chosen, targets)
        probes: list[Probe] = []
        for first in range(0, len(path), plan.strengths):
            l2_S = path.l2[first : first + plan.strengths]
            weights = [
                _turned_weight(basis, probe, active_A, scale_R.shape[0]) for probe in starts[first : first + len(l2_S)]
            ]
            strengths_S = torch.tensor(l2_S, dtype=torch.float64, device=place)
            newton = Newton(problem, Preconditioner(problem), l2_S=strengths_S, total_weight=source.num_rows, tol=tol)
            solved, reports = newton.solve(problem.start(torch.stack(weights)))
            for weight_KR, l2, report in zip(solved.weight_SKR, l2_S, reports, strict=True):
                probes.append(make_probe(weight_KR, basis, chosen, l2, report))
    return [expand(probe, active_A, count_K, chosen) for probe in probes]


def _sample_path(
    sample_nD: NDArray[np.float32],
    labels_n: NDArray[Any],
    num_rows: int,
    path: RegularizationPath,
    num_classes: int,
    loss: str,
    tol: float,
    device: str,
) -> list[Probe | None]:
    """Starts from a sample of rows, at strengths scaled to its size; none where the sample lacks classes to fit."""
    share = len(sample_nD) / num_rows
    scaled = RegularizationPath(l2=tuple(l2 * share for l2 in path.l2))
    options = {"num_classes": num_classes, "loss": loss, "tol": SAMPLE_SLACK * tol, "device": device}
    try:
        return list(fit_path(sample_nD, labels_n, path=scaled, **options))  # type: ignore[arg-type]  # mixed values
    except InputError:
        return [None] * len(path)


def _turned_weight(basis: Basis, start: Probe | None, active_A: NDArray[np.int64], columns: int) -> Tensor:
    """Zero, or ``start`` among the classes that are fitted; an infinite bias begins at the lowest finite one."""
    weight_KR = torch.zeros(len(active_A), columns, dtype=torch.float64, device=basis.mean_D.device)
    if start is not None:
        weight_KD, bias_K = start.weight_KD[active_A], start.bias_K[active_A].copy()
        finite_K = np.isfinite(bias_K)
        bias_K[~finite_K] = bias_K[finite_K].min(initial=0.0)
        basis.turned(torch.from_numpy(weight_KD), torch.from_numpy(bias_K), out_KR=weight_KR)
    return weight_KR


def _survey(
    source: RowSource, plan: _Plan, device: torch.device
) -> tuple[Basis, Tensor, NDArray[np.int64], NDArray[np.float32]]:
    """One pass: the basis, mean squares of its columns, and every so-manieth row with its number."""
    dims = source.feature_dim
    every = -(-source.num_rows // plan.sample_rows)
    total_D = torch.zeros(dims, dtype=torch.float64, device=device)
    moment_DD = torch.zeros(dims, dims, dtype=torch.float64, device=device)
    origin_D: Tensor | None = None
    rows, pieces, seen = [], [], 0
    for batch_BD in source.batches(plan.block_rows):
        check_features(batch_BD, first_row=seen)
        block_BD = torch.from_numpy(batch_BD.astype(np.float32)).to(device)
        origin_D = block_BD.mean(0) if origin_D is None else origin_D  # sums about it do not cancel
        moved_BD = block_BD - origin_D
        total_D += moved_BD.sum(0, dtype=torch.float64)
        moment_DD += moved_BD.T @ moved_BD
        picked = np.arange((-seen) % every, len(batch_BD), every)
        rows.append(picked + seen)
        pieces.append(batch_BD[picked].astype(np.float32))
        seen += len(batch_BD)
    assert origin_D is not None
    shift_D = total_D / seen
    variance_R, turn_DR = torch.linalg.eigh(moment_DD / seen - torch.outer(shift_D, shift_D))
    scale_R = torch.cat([variance_R.flip(0).clamp_min(0), variance_R.new_ones(1)])
    basis = Basis((origin_D + shift_D).float(), turn_DR.flip(1))
    return basis, scale_R, np.concatenate(rows), np.concatenate(pieces)


@dataclass(frozen=True, slots=True)
class _Block:
    """Some rows, centred, with their share of the mean."""

    centred_BD: Tensor
    num_rows: int

    def mean(self, values_XB: Tensor) -> Tensor:
        """Sum over these rows, over N."""
        return values_XB.sum(-1, dtype=torch.float64) / self.num_rows

    def weighted(self, values_XB: Tensor) -> tuple[Tensor, float]:
        """Values, and 1 over N."""
        return values_XB, 1 / self.num_rows


class Streamed:
    """A Problem of which every evaluation, gradient and Hessian product is one pass over the rows."""

    def __init__(
        self, source: RowSource, block_rows: int, basis: Basis, scale_R: Tensor, loss: Loss, targets: Targets
    ) -> None:
        self.source, self.block_rows, self.basis = source, block_rows, basis
        self.loss, self.targets, self.scale_R = loss, targets, scale_R
        self.bias_column = len(scale_R) - 1
        self.penalised_R = torch.ones_like(scale_R)
        self.penalised_R[self.bias_column] = 0
        self.rounding, self.precision = torch.finfo(torch.float32).eps, "float32/float32"
        self.passes = 0.0
        self.curvature_passes = 0

    def start(self, weight_SKR: Tensor) -> Point:
        """One pass."""
        return self._reach(weight_SKR, torch.zeros_like(weight_SKR))[0]

    def _reach(self, weight_SKR: Tensor, direction_SKR: Tensor) -> tuple[Point, Tensor | None]:
        """The point and the slope of its loss in a direction, of a smooth loss None."""
        self.passes += 1
        weight_MD, bias_M = self._raw(direction_SKR)
        loss_S = slope_S = torch.zeros((), dtype=torch.float64, device=weight_SKR.device)
        found: Moments | None = None
        for block, targets, loss_SB, residual_SKB in self._evaluate(weight_SKR):
            loss_S = loss_S + block.mean(loss_SB)
            if not self.loss.smooth:
                scores_MB = torch.addmm(bias_M.float()[:, None], weight_MD.float(), block.centred_BD.T)
                slope_S = slope_S + block.mean((residual_SKB * scores_MB.view_as(residual_SKB)).sum(1))
            here = moments(block, self.loss, targets, residual_SKB)
            found = here if found is None else found + here
        assert found is not None
        return Point(weight_SKR, loss_S, found, None, None), None if self.loss.smooth else slope_S

    def gradients(self, point: Point, wanted: float) -> Gradients:
        """One pass. ``wanted`` changes nothing: block sums are float64 anyway."""
        self.passes += 1
        found = repair(self.loss, point.moments)
        dual = _Gathered(point.weight_SKR, self.source.feature_dim)
        step = dual if self.loss.smooth else _Gathered(point.weight_SKR, self.source.feature_dim)
        for block, targets, _, residual_SKB in self._evaluate(point.weight_SKR):
            dual.add(block, found.apply(self.loss, targets, residual_SKB))
            if step is not dual:
                step.add(block, residual_SKB)
        dual_SKR = dual.turned(self.basis)
        dual_SKR[:, :, self.bias_column] = found.bias_SK
        if step is dual:
            return Gradients(dual_SKR, dual_SKR, found)
        step_SKR = step.turned(self.basis)
        return Gradients(step_SKR, dual_SKR, found)

    def hessian(self, point: Point, direction_SKR: Tensor, *, exact: bool) -> Tensor:
        """One pass, in which the residuals are made again; in float32 either way."""
        self.curvature_passes += 1
        direction_SKR = direction_SKR.double()
        weight_MD, bias_M = self._raw(direction_SKR)
        total = _Gathered(direction_SKR, self.source.feature_dim)
        for block, targets, _, residual_SKB in self._evaluate(point.weight_SKR):
            scores_MB = torch.addmm(bias_M.float()[:, None], weight_MD.float(), block.centred_BD.T)
            total.add(block, self.loss.curve(residual_SKB, scores_MB.view_as(residual_SKB), targets))
        return spread(self.loss, total.turned(self.basis))

    def line(self, point: Point, direction_SKR: Tensor) -> Line:
        """A pass a point."""
        return lambda length_S: self._reach(point.weight_SKR + length_S[:, None, None] * direction_SKR, direction_SKR)

    def _raw(self, weight_SKR: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (M, D) and bias (M,) for centred features, float64."""
        flat_MR = weight_SKR.flatten(0, 1)
        return flat_MR[:, : self.bias_column] @ self.basis.turn_DR.T, flat_MR[:, self.bias_column]

    def _evaluate(self, weight_SKR: Tensor) -> Iterator[tuple[_Block, Targets, Tensor, Tensor]]:
        """Block by block: rows, targets, loss (S, B), residual (S, K, B)."""
        weight_MD, bias_M = self._raw(weight_SKR)
        high_MD = weight_MD.float()
        low_MD = (weight_MD - high_MD).float()
        seen = 0
        for batch_BD in self.source.batches(self.block_rows):
            block_BD = torch.from_numpy(batch_BD.astype(np.float32)).to(weight_SKR.device)
            block = _Block(block_BD - self.basis.mean_D, self.source.num_rows)
            targets = self.targets.rows(slice(seen, seen + len(batch_BD)))
            seen += len(batch_BD)
            scores_MB = torch.addmm(bias_M.float()[:, None], high_MD, block.centred_BD.T)
            scores_MB.addmm_(low_MD, block.centred_BD.T)
            loss_SB, residual_SKB = self.loss.evaluate(scores_MB.view(*weight_SKR.shape[:2], -1), targets)
            yield block, targets, loss_SB, residual_SKB


class _Gathered:
    """Sum over blocks of residual x row, float64."""

    def __init__(self, like_SKR: Tensor, dims: int) -> None:
        self.shape = like_SKR.shape[:2]
        self.weight_MD = like_SKR.new_zeros(self.shape[0] * self.shape[1], dims)
        self.bias_M = like_SKR.new_zeros(self.shape[0] * self.shape[1])

    def add(self, block: _Block, values_SKB: Tensor) -> None:
        values_MB = values_SKB.flatten(0, 1)
        self.weight_MD += (values_MB @ block.centred_BD) / block.num_rows
        self.bias_M += block.mean(values_MB)

    def turned(self, basis: Basis) -> Tensor:
        """(S, K, R)."""
        turned_MR = torch.cat([self.weight_MD @ basis.turn_DR, self.bias_M[:, None]], 1)
        return turned_MR.view(*self.shape, -1)
