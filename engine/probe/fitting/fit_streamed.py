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
    check_labels,
    class_counts,
    expand,
    fit_path,
    make_targets,
    normalized_weights,
    torch_device,
)
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.solved_path import SolvedPath, make_probe
from penultimate.engine.probe.fitting.survey import Survey, survey_of
from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.objective.problem import Point
from penultimate.engine.probe.objective.streamed import RowSource, StreamedProblem
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.preconditioners.choose import PreconditionerChoice
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.solver.newton import Newton
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.engine.runtime.threads import shared_threads
from penultimate.store.errors import InputError

# Shapes: N samples, B of them in a block, n of them in the sample, D feature dimensions, K classes, A classes that have
# samples, S strengths, R = D + 1 rotated columns.

VECTORS = 16
"""Number of arrays of the weights' shape, float64, that Newton and conjugate gradients hold at once."""

MIN_BLOCK_ROWS = 64
"""Smallest number of rows of a block."""

BLOCK_SCORES = 1 << 20
"""Number of scores (strengths x classes x rows) of a block on a CPU, 4 MB of float32, which its caches hold.

A Hessian product of 24,576 rows x 1,024, with 5 strengths of 100 classes, took 1.2 s of processor time by 2,048 rows,
1.4 s by 8,192 and 1.6 to 1.9 s by all at once (2 cores with AVX-512, beside other programs).
"""

BLOCK_NUMBERS = 1 << 22
"""Number of feature values of a block on a CPU, 16 MB of float32.

Less their mean 8,192 rows x 2,048 took 8 us a row, whose memory is given back and had again each time, and 2,048 rows
0.7 us (EPYC with AVX2, 2 cores).
"""

SAMPLE_SLACK = 2.0
"""Factor on the tolerance of the sample's path, which only gives the starts."""


@dataclass(frozen=True, slots=True)
class _MemoryPlan:
    """Division of a memory limit among the arrays of a fit."""

    block_rows: int
    sample_rows: int
    block_strengths: int
    holds_residuals: bool

    @classmethod
    def of(cls, source: RowSource, *, classes: int, strengths: int, memory_bytes: int) -> Self:
        """Give a quarter each to the sample, the weights, the blocks, and the covariance with what libraries need.

        Once the sample has given the starts, its quarter holds the residuals, if they fit.
        """
        dims = source.feature_dim
        vectors, row, column = _bytes_each(classes, dims)
        least = least_memory_bytes(classes, dims)
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
            holds_residuals=4 * together * classes * source.num_rows <= quarter,
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


def least_memory_bytes(classes: int, dims: int) -> int:
    """Return the smallest memory limit with which features of so many classes and dimensions can be streamed."""
    vectors, row, column = _bytes_each(classes, dims)
    return 4 * max(vectors, MIN_BLOCK_ROWS * (row + column), 4 * 8 * dims * dims)


def _bytes_each(classes: int, dims: int) -> tuple[int, int, int]:
    """Return the memory of the vectors of one strength, of a row of features, and of its scores at one strength."""
    return VECTORS * 8 * classes * (dims + 1), 4 * 4 * dims, 4 * 8 * classes


def fit_streamed(
    source: RowSource,
    labels: NDArray[Any],
    settings: FitSettings,
    *,
    memory_bytes: int,
    sample_weight_N: NDArray[np.floating[Any]] | None = None,
    start: Sequence[Probe] = (),
) -> list[Probe]:
    """Fit every strength of the path as ``fit_path`` does, with about ``memory_bytes`` besides what libraries take.

    Labels and ``sample_weight_N``, which are > 0, are held in memory. A GPU holds the features too where they take at
    most half of ``memory_bytes``: then they are read once, else in every pass. Every strength begins at or between the
    solutions ``start``, of other strengths or of much the same data, and without them at the solution on a sample of
    rows. Raises ``InputError`` for data that cannot be fitted, and where the limit is too little, saying what is
    enough.
    """
    loss, device, path = LOSSES[settings.loss], torch_device(settings.device), settings.path
    check_labels(labels, source.num_rows, settings.num_classes, multi_label=settings.loss != "softmax")
    weight_N, total_weight = normalized_weights(sample_weight_N, source.num_rows)
    if weight_N is not None and not weight_N.min() > 0:
        raise InputError("where features are streamed sample weights must be > 0; leave out the rows that do not count")
    count_K = class_counts(labels, settings.num_classes)
    active_A = active_classes(count_K, source.num_rows, loss)
    held_bytes = _held_bytes(source, memory_bytes, device)
    memory_bytes -= held_bytes
    plan = _MemoryPlan.of(source, classes=len(active_A), strengths=len(path), memory_bytes=memory_bytes)
    plan = plan.with_sample_that_fits(
        source.feature_dim, len(active_A), loss=loss.name, memory_bytes=memory_bytes, device=device
    )
    with torch.no_grad(), float32_arithmetic(), shared_threads() as adjust_threads:
        weight = None if weight_N is None else torch.from_numpy(weight_N).to(device)
        survey = survey_of(
            source, weight, rows=plan.sample_rows, block_rows=plan.block_rows, device=device, hold=held_bytes > 0
        )
        starts = start or _sample_path(survey, labels, sample_weight_N, settings)
        basis, mean_square_R, rows = survey.basis, survey.mean_square_R, survey.held or source
        del survey  # its sample is as large as a block
        solved = SolvedPath(starts, active_A, basis, loss, columns=len(mean_square_R))
        targets = make_targets(labels, active_A, loss, dtype=torch.float32, device=device)
        block_rows = plan.block_rows
        if device.type == "cpu":
            cached = min(BLOCK_SCORES // (plan.block_strengths * len(active_A)), BLOCK_NUMBERS // source.feature_dim)
            block_rows = min(block_rows, max(MIN_BLOCK_ROWS, cached))
        problem = StreamedProblem(
            rows,
            block_rows,
            basis,
            mean_square_R,
            loss,
            targets,
            sample_weight_N=weight,
            holds_residuals=plan.holds_residuals,
            adjust_threads=adjust_threads,
        )
        probes: list[Probe] = []
        for first in range(0, len(path), plan.block_strengths):
            l2_S = path.l2[first : first + plan.block_strengths]
            weights = [solved.at(l2) for l2 in l2_S]
            strengths_S = torch.tensor(l2_S, dtype=torch.float64, device=device)
            newton = Newton(
                problem,
                PreconditionerChoice(problem),
                l2_S=strengths_S,
                total_weight=total_weight,
                tol=settings.tol,
            )
            at, reports = newton.solve(_start(problem, torch.stack(weights), strengths_S / total_weight))
            for weight_KR, l2, report in zip(at.weight_SKR, l2_S, reports, strict=True):
                probes.append(make_probe(*basis.unrotate(weight_KR), loss, l2, report))
    return [expand(probe, active_A, count_K, loss) for probe in probes]


def _start(problem: StreamedProblem, weight_SKR: Tensor, mu_S: Tensor) -> Point:
    """Evaluate where strengths begin, and zero instead for those to which that would be worse: no solution is."""
    first = problem.targets.rows(slice(0, 1))
    zero_SK1 = torch.zeros(1, weight_SKR.shape[1], 1, device=weight_SKR.device)
    loss_at_zero = float(problem.loss.evaluate(zero_SK1, first)[0])
    point = problem.start(weight_SKR)
    penalty_S = mu_S / 2 * (weight_SKR.square().sum(1) @ problem.penalised_R)
    worse_S = ~(point.loss_S + penalty_S <= loss_at_zero * (1 + problem.rounding))
    if not worse_S.any():
        return point
    del point  # and its residuals
    return problem.start(torch.where(worse_S[:, None, None], 0.0, weight_SKR))


def _sample_path(
    survey: Survey, labels: NDArray[Any], sample_weight_N: NDArray[Any] | None, settings: FitSettings
) -> Sequence[Probe]:
    """Return starts from the sample, fitted at strengths scaled to its size; none where it lacks classes to fit."""
    rows_n, fraction, weight_n = survey.rows_n, len(survey.rows_n) / len(labels), None
    if sample_weight_N is not None:
        weight_n = sample_weight_N[rows_n]
        fraction = float(weight_n.sum() / sample_weight_N.sum())
    scaled = RegularizationPath(l2=tuple(l2 * fraction for l2 in settings.path.l2))
    try:
        probes = fit_path(
            survey.sample_nD,
            labels[rows_n],
            replace(settings, path=scaled, tol=SAMPLE_SLACK * settings.tol),
            sample_weight_N=weight_n,
        )
    except InputError:
        return ()
    return [replace(probe, l2=l2) for probe, l2 in zip(probes, settings.path.l2, strict=True)]


def _held_bytes(source: RowSource, memory_bytes: int, device: torch.device) -> int:
    """Return the memory of all features, float32, where a GPU is to hold them, else 0."""
    num_bytes = 4 * source.num_rows * source.feature_dim
    return num_bytes if device.type == "cuda" and 2 * num_bytes <= memory_bytes else 0
