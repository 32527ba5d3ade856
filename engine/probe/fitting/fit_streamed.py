"""Fit linear probes on features larger than memory: every pass streams them once and serves a block of strengths.

A first pass takes mean, covariance and a sample of rows. The path on that sample, in memory, gives every strength its
start; Newton's steps on all rows then need few passes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.probe.fitting.device_memory import DeviceMemory
from penultimate.engine.probe.fitting.fit import (
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
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.objective.rotated_features import Basis
from penultimate.engine.probe.objective.streamed import HeldRows, RowSource, StreamedProblem
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.preconditioners.choose import PreconditionerChoice
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.solver.newton import Newton
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.store.errors import InputError

# Shapes: N samples, B of them in a block, n of them in the sample, D feature dimensions, K classes, A classes that have
# samples, S strengths, R = D + 1 rotated columns.

VECTORS = 16
"""Number of arrays of the weights' shape, float64, that Newton and conjugate gradients hold at once."""

MIN_BLOCK_ROWS = 64
"""Smallest number of rows of a block."""

SAMPLE_SLACK = 2.0
"""Factor on the tolerance of the sample's path, which only gives the starts."""


@dataclass(frozen=True, slots=True)
class _MemoryPlan:
    """Division of a memory limit among the arrays of a fit."""

    block_rows: int
    sample_rows: int
    block_strengths: int

    @classmethod
    def of(cls, source: RowSource, *, classes: int, strengths: int, memory_bytes: int) -> Self:
        """Give a quarter each to the sample, the weights, the blocks, and the covariance with what libraries need."""
        dims = source.feature_dim
        vectors, row, column = VECTORS * 8 * classes * (dims + 1), 4 * 4 * dims, 4 * 8 * classes
        least = 4 * max(vectors, MIN_BLOCK_ROWS * (row + column), 4 * 8 * dims * dims)
        if memory_bytes < least:
            raise InputError(
                f"a memory limit of {memory_bytes / 2**20:,.0f} MiB is too little for {classes} classes of "
                f"{dims} dimensions; give at least {math.ceil(least / 2**20):,} MiB"
            )
        quarter = memory_bytes // 4
        together = min(strengths, quarter // vectors, (quarter // MIN_BLOCK_ROWS - row) // column)
        rows = quarter // (row + together * column)
        return cls(
            block_rows=min(rows, source.num_rows),
            sample_rows=min(source.num_rows, quarter // row),
            block_strengths=together,
        )

    def with_sample_that_fits(
        self, dims: int, classes: int, *, loss: str, memory_bytes: int, device: torch.device
    ) -> Self:
        """Return the plan with a sample halved until its path fits in a GPU's memory."""
        rows = self.sample_rows
        while rows > MIN_BLOCK_ROWS:
            needed = DeviceMemory.planned((rows, dims), classes, loss=loss, weighted=False, device=device).needed_bytes
            if needed <= memory_bytes:
                break
            rows //= 2
        return replace(self, sample_rows=rows)


@dataclass(frozen=True, slots=True)
class _Survey:
    """Results of the first pass over the features."""

    basis: Basis
    mean_square_R: Tensor
    """Mean squares of the rotated columns, float64."""

    rows_n: NDArray[np.int64]
    """Row numbers of the sample."""

    sample_nD: NDArray[np.float32]
    held: HeldRows | None
    """All features, where the device holds them."""


def fit_streamed(
    source: RowSource,
    labels: NDArray[Any],
    settings: FitSettings,
    *,
    memory_bytes: int,
    start: Probe | None = None,
) -> list[Probe]:
    """Fit every strength of the path as ``fit_path`` does, with about ``memory_bytes`` besides what libraries take.

    Labels are held in memory. A GPU holds the features too where they take at most half of ``memory_bytes``: then they
    are read once, else in every pass. With ``start`` every strength begins there, else at the solution on a sample of
    rows. Raises ``InputError`` for data that cannot be fitted, and where the limit is too little, saying what is
    enough.
    """
    loss, device, path = LOSSES[settings.loss], torch_device(settings.device), settings.path
    check_labels(labels, source.num_rows, settings.num_classes, multi_label=settings.loss != "softmax")
    count_K = class_counts(labels, settings.num_classes)
    active_A = active_classes(count_K, source.num_rows, loss)
    held_bytes = _held_bytes(source, memory_bytes, device)
    memory_bytes -= held_bytes
    plan = _MemoryPlan.of(source, classes=len(active_A), strengths=len(path), memory_bytes=memory_bytes)
    plan = plan.with_sample_that_fits(
        source.feature_dim, len(active_A), loss=loss.name, memory_bytes=memory_bytes, device=device
    )
    with torch.no_grad(), float32_arithmetic():
        survey = _survey(source, plan, device, hold=held_bytes > 0)
        starts: Sequence[Probe | None] = [start] * len(path)
        if start is None:
            starts = _sample_path(survey, labels[survey.rows_n], source.num_rows, settings)
        basis, mean_square_R, rows = survey.basis, survey.mean_square_R, survey.held or source
        del survey  # its sample is as large as a block
        targets = make_targets(labels, active_A, loss, dtype=torch.float32, device=device)
        problem = StreamedProblem(rows, plan.block_rows, basis, mean_square_R, loss, targets)
        probes: list[Probe] = []
        for first in range(0, len(path), plan.block_strengths):
            l2_S = path.l2[first : first + plan.block_strengths]
            weights = [
                _start_weight(basis, probe, active_A, len(mean_square_R)) for probe in starts[first : first + len(l2_S)]
            ]
            strengths_S = torch.tensor(l2_S, dtype=torch.float64, device=device)
            newton = Newton(
                problem,
                PreconditionerChoice(problem),
                l2_S=strengths_S,
                total_weight=source.num_rows,
                tol=settings.tol,
            )
            solved, reports = newton.solve(problem.start(torch.stack(weights)))
            for weight_KR, l2, report in zip(solved.weight_SKR, l2_S, reports, strict=True):
                probes.append(make_probe(*basis.unrotate(weight_KR), loss, l2, report))
    return [expand(probe, active_A, count_K, loss) for probe in probes]


def _sample_path(
    survey: _Survey, labels_n: NDArray[Any], num_rows: int, settings: FitSettings
) -> Sequence[Probe | None]:
    """Return starts from the sample, at strengths scaled to its size; None where it lacks classes to fit."""
    fraction = len(survey.sample_nD) / num_rows
    scaled = RegularizationPath(l2=tuple(l2 * fraction for l2 in settings.path.l2))
    try:
        return fit_path(survey.sample_nD, labels_n, replace(settings, path=scaled, tol=SAMPLE_SLACK * settings.tol))
    except InputError:
        return [None] * len(settings.path)


def _start_weight(basis: Basis, start: Probe | None, active_A: NDArray[np.int64], columns: int) -> Tensor:
    """Return rotated weights of ``start`` for the fitted classes, or zero.

    An infinite bias begins at the lowest finite one.
    """
    weight_KR = torch.zeros(len(active_A), columns, dtype=torch.float64, device=basis.mean_D.device)
    if start is not None:
        weight_KD, bias_K = start.weight_KD[active_A], start.bias_K[active_A].copy()
        finite_K = np.isfinite(bias_K)
        bias_K[~finite_K] = bias_K[finite_K].min(initial=0.0)
        basis.rotate(torch.from_numpy(weight_KD), torch.from_numpy(bias_K), out_KR=weight_KR)
    return weight_KR


def _held_bytes(source: RowSource, memory_bytes: int, device: torch.device) -> int:
    """Return the memory of all features, float32, where a GPU is to hold them, else 0."""
    num_bytes = 4 * source.num_rows * source.feature_dim
    return num_bytes if device.type == "cuda" and 2 * num_bytes <= memory_bytes else 0


def _survey(source: RowSource, plan: _MemoryPlan, device: torch.device, *, hold: bool) -> _Survey:
    """Find the basis, the mean squares of its columns and an evenly spaced sample of rows in one pass.

    ``hold`` all rows on the device as well.
    """
    dims = source.feature_dim
    held_ND = torch.empty(source.num_rows if hold else 0, dims, device=device)
    stride = -(-source.num_rows // plan.sample_rows)
    total_D = torch.zeros(dims, dtype=torch.float64, device=device)
    moment_DD = torch.zeros(dims, dims, dtype=torch.float64, device=device)
    origin_D: Tensor | None = None
    rows, pieces, seen = [], [], 0
    for batch_BD in source.batches(plan.block_rows):
        check_features(batch_BD, first_row=seen)
        block_BD = torch.from_numpy(batch_BD.astype(np.float32)).to(device)
        origin_D = block_BD.mean(0) if origin_D is None else origin_D  # sums about it do not cancel
        if hold:
            held_ND[seen : seen + len(block_BD)] = block_BD
        moved_BD = block_BD - origin_D
        total_D += moved_BD.sum(0, dtype=torch.float64)
        moment_DD += moved_BD.T @ moved_BD
        picked = np.arange((-seen) % stride, len(batch_BD), stride)
        rows.append(picked + seen)
        pieces.append(batch_BD[picked].astype(np.float32))
        seen += len(batch_BD)
    assert origin_D is not None
    shift_D = total_D / seen
    variance_R, rotation_DR = torch.linalg.eigh(moment_DD / seen - torch.outer(shift_D, shift_D))
    mean_square_R = torch.cat([variance_R.flip(0).clamp_min(0), variance_R.new_ones(1)])
    basis = Basis((origin_D + shift_D).float(), rotation_DR.flip(1))
    held = HeldRows(held_ND) if hold else None
    return _Survey(basis, mean_square_R, np.concatenate(rows), np.concatenate(pieces), held)
