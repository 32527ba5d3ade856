"""SolvedPath: solutions of some strengths, of this or much the same problem, at which others begin.

Nothing is believed of them: weights count as a solution only with a certificate that is made from the data at hand.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.losses import Loss
from penultimate.engine.probe.objective.rotated_features import Basis
from penultimate.engine.probe.preconditioners.choose import PreconditionerChoice
from penultimate.engine.probe.result import UNKNOWN, Probe, SolveReport
from penultimate.engine.probe.solver.continuation import lagrange_coefficients
from penultimate.engine.probe.solver.newton import Newton

# Shapes: K classes, A classes that are fitted, D feature dimensions, R columns of the rotated features.

NEIGHBOURS = 6
"""Number of solutions that the polynomial goes through which tells of a strength between them.

Of 33 strengths between the paper's 45 on Caltech-101 31, 33 and 33 were certified as they were with 4, 6 and 8.
"""

SAME = 1e-9
"""Difference of the logarithms of strengths up to which they are the same."""

CERTIFIED_SCORES = 1 << 21
"""Number of scores (strengths x classes x samples) of strengths that are certified side by side.

With Caltech-101's 260,100 a strength, 45 strengths took 0.75, 0.65, 0.59 and 0.57 s by 1, 4, 8 and 16 (AVX2) and 0.41,
0.32, 0.35 and 0.45 s (AMX).
"""

NEARLY = 10
"""Multiple of what the stopping rule accepts up to which a gap is that of a strength that is nearly solved.

On other grids of Caltech-101 one or two strengths in 20 to 30, between 300 and 1,500, had 1.7 to 2.5 times that and
took one Hessian product, for which the axes had to be found, in a quarter of a path's time.
"""

STEP_PASSES = 3
"""Number of passes that a step from where a strength is nearly solved takes, its gradients included."""

MOST_FAILURES = 4
"""Number of strengths in a row without a certificate after which no more are tried."""


class SolvedPath:
    """Solutions, in the coordinates of another fit's features."""

    def __init__(
        self, probes: Sequence[Probe], active_A: NDArray[np.int64], basis: Basis, loss: Loss, *, columns: int
    ) -> None:
        self._loss = loss
        self._probes = sorted(probes, key=lambda probe: probe.l2, reverse=True)
        self._log_l2 = [math.log(probe.l2) for probe in self._probes]
        self._active_A, self._basis, self._columns = active_A, basis, columns

    def original(self, l2: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return weights (A, D) and biases (A,) of a strength: of its solution, or what the nearest say."""
        with np.errstate(over="ignore", invalid="ignore"):  # of weights that are no solution; not finite, none is used
            return self._weighed(_nearest(self._log_l2, math.log(l2)))

    def _weighed(self, nearest: Sequence[tuple[int, float]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the sum of solutions times their coefficients, centred over classes where the loss is."""
        parts = [(np.float32(c), self._probes[n]) for n, c in nearest]
        weight_AD = self._fitted(parts[0][1].weight_KD) * parts[0][0]
        bias_A = self._finite_bias(parts[0][1]) * parts[0][0]
        for c, probe in parts[1:]:
            weight_AD += c * self._fitted(probe.weight_KD)
            bias_A += c * self._finite_bias(probe)
        if self._loss.shift_invariant:  # where a certificate is blind to the mean over classes, though not the penalty
            weight_AD -= weight_AD.mean(0)
            bias_A -= bias_A.mean()
        return weight_AD, bias_A

    def _fitted(self, values_K: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values of the classes that are fitted; of all as they are, not copied."""
        return values_K if len(self._active_A) == len(values_K) else values_K[self._active_A]

    def centred(self, weight_AD: NDArray[np.float32], bias_A: NDArray[np.float32]) -> Tensor:
        """Return weights (A, R), float64, for features that are centred and not rotated."""
        mean_D = self._basis.mean_D.double()
        centred_AR = self._zero()
        centred_AR[:, : len(mean_D)] = torch.from_numpy(weight_AD)
        centred_AR[:, len(mean_D)] = torch.from_numpy(bias_A).to(mean_D) + centred_AR[:, : len(mean_D)] @ mean_D
        return centred_AR

    def at(self, l2: float) -> Tensor:
        """Return the rotated weights (A, R) of a strength, float64; zero where there are no solutions."""
        rotated_AR = self._zero()
        if self._probes:
            weight_AD, bias_A = self.original(l2)
            self._basis.rotate(torch.from_numpy(weight_AD), torch.from_numpy(bias_A), out_KR=rotated_AR)
        return rotated_AR

    def _zero(self) -> Tensor:
        device = self._basis.mean_D.device
        return torch.zeros(len(self._active_A), self._columns, dtype=torch.float64, device=device)

    def _finite_bias(self, probe: Probe) -> NDArray[np.float32]:
        """Return the biases of the fitted classes; an infinite one, of a class it had no samples of, as the lowest."""
        bias_A = probe.bias_K[self._active_A]
        finite_A = np.isfinite(bias_A)
        bias_A[~finite_A] = bias_A[finite_A].min(initial=0.0)
        return bias_A


def certified(
    problem: InMemoryProblem,
    start: Sequence[Probe],
    active_A: NDArray[np.int64],
    settings: FitSettings,
    total_weight: float,
) -> dict[float, Probe]:
    """Return a Probe of the fitted classes for each strength at which ``start`` meets the stopping rule, or nearly.

    ``problem`` has features in their own coordinates. A strength costs one pass, and one that fails too: after some
    that failed in a row no more are tried. Where all that fail nearly meet the rule, and are few enough that steps
    cost less than finding the principal axes for them, they take their steps here.
    """
    found: dict[float, Probe] = {}
    missed: list[tuple[Probe, float]] = []
    rows, columns = problem.features.matrix_NR.shape
    solved = SolvedPath(start, active_A, problem.features.basis, problem.loss, columns=columns)
    most = max(1, CERTIFIED_SCORES // (len(active_A) * rows))
    left, width, failures = list(settings.path.l2), 1, 0
    while left and failures < MOST_FAILURES:
        some, left = left[:width], left[width:]
        for probe, multiple in _certify(problem, solved, some, total_weight, settings.tol):
            failures = 0 if probe.report.certified else failures + 1
            if probe.report.certified:
                found[probe.l2] = probe
            else:
                missed.append((probe, multiple))
        width = min(most, 2 * width)
    axes_passes = columns / len(active_A)  # which take as long as finding the axes and rotating the features
    nearly = problem.loss.smooth and not left and all(1 < multiple <= NEARLY for _, multiple in missed)
    if nearly and len(missed) * STEP_PASSES <= axes_passes:
        stepped = [_stepped(problem, solved, probe, total_weight, settings.tol) for probe, _ in missed]
        found |= {probe.l2: probe for probe in stepped if probe.report.certified}
    return found


def _certify(
    problem: InMemoryProblem, solved: SolvedPath, l2: Sequence[float], total_weight: float, tol: float
) -> list[tuple[Probe, float]]:
    """Return what ``solved`` says of these strengths, side by side, and their gaps as ``Newton.certify`` has them.

    The report is ``UNKNOWN`` but for what it cost where the rule is not met.
    """
    originals = [solved.original(value) for value in l2]
    weight_SKR = torch.stack([solved.centred(weight_KD, bias_K) for weight_KD, bias_K in originals])
    newton = _newton(problem, l2, total_weight, tol)
    began, passes = time.perf_counter(), problem.passes
    checked = newton.certify(problem.start(weight_SKR))
    costs: dict[str, Any] = {"passes": problem.passes - passes, "seconds": (time.perf_counter() - began) / len(l2)}
    found = []
    for (weight_KD, bias_K), value, (report, multiple) in zip(originals, l2, checked, strict=True):
        report = replace(report if multiple <= 1 else UNKNOWN, **costs)
        found.append((Probe(weight_KD=weight_KD, bias_K=bias_K, l2=value, report=report), multiple))
    return found


def _stepped(problem: InMemoryProblem, solved: SolvedPath, probe: Probe, total_weight: float, tol: float) -> Probe:
    """Return the solution that Newton's method finds from a probe that is nearly one; its report has both's costs."""
    newton = _newton(problem, [probe.l2], total_weight, tol)
    at, (report,) = newton.solve(problem.start(solved.centred(probe.weight_KD, probe.bias_K)[None]))
    report = replace(
        report, passes=report.passes + 0.5 + probe.report.passes, seconds=report.seconds + probe.report.seconds
    )
    return make_probe(*problem.design.unrotate(at.weight_SKR[0]), problem.loss, probe.l2, report)


def _newton(problem: InMemoryProblem, l2: Sequence[float], total_weight: float, tol: float) -> Newton:
    l2_S = torch.tensor(l2, dtype=torch.float64, device=problem.features.matrix_NR.device)
    return Newton(problem, PreconditionerChoice(problem), l2_S=l2_S, total_weight=total_weight, tol=tol)


def make_probe(weight_KD: Tensor, bias_K: Tensor, loss: Loss, l2: float, report: SolveReport) -> Probe:
    """Return a solution as a Probe, float32; weights are for the original features."""
    if loss.shift_invariant:  # the mean over classes changes no probability, and without it ||W|| is smaller
        weight_KD, bias_K = weight_KD - weight_KD.mean(0), bias_K - bias_K.mean()
    return Probe(weight_KD=weight_KD.float().cpu().numpy(), bias_K=bias_K.float().cpu().numpy(), l2=l2, report=report)


def _nearest(log_l2: Sequence[float], at: float) -> list[tuple[int, float]]:
    """Return the solutions next to ``at`` (their indices; ``log_l2`` falls) with their coefficients."""
    at = min(max(at, log_l2[-1]), log_l2[0])
    closest = min(range(len(log_l2)), key=lambda n: abs(log_l2[n] - at))
    if abs(log_l2[closest] - at) < SAME:
        return [(closest, 1.0)]
    after = [n for n, value in enumerate(log_l2) if value < at][: NEIGHBOURS // 2]
    before = [n for n, value in enumerate(log_l2) if value > at][len(after) - NEIGHBOURS :]
    nodes = [*before, *after]
    return list(zip(nodes, lagrange_coefficients([log_l2[n] for n in nodes], at), strict=True))
