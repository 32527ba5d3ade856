"""SolvedPath: solutions of some strengths, of this or much the same problem, at which others begin.

Nothing is believed of them: weights count as a solution only with a certificate that is made from the data at hand.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.rotated_features import Basis
from penultimate.engine.probe.preconditioners.choose import PreconditionerChoice
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.solver.continuation import SPAN, lagrange_coefficients
from penultimate.engine.probe.solver.newton import Newton

# Shapes: K classes, A classes that are fitted, D feature dimensions, R columns of the rotated features.

SAME = 1e-9
"""Difference of the logarithms of strengths up to which they are the same."""

CERTIFIED_SCORES = 1 << 21
"""Number of scores (strengths x classes x samples) of strengths that are certified side by side.

With Caltech-101's 260,100 a strength, 45 strengths took 0.75, 0.65, 0.59 and 0.57 s by 1, 4, 8 and 16 (AVX2) and 0.41,
0.32, 0.35 and 0.45 s (AMX).
"""

MOST_FAILURES = 4
"""Number of strengths without a certificate, beyond those with one, after which no more are tried."""


class SolvedPath:
    """Solutions, in the coordinates of another fit's features."""

    def __init__(self, probes: Sequence[Probe], active_A: NDArray[np.int64], basis: Basis, *, columns: int) -> None:
        self._probes = sorted(probes, key=lambda probe: probe.l2, reverse=True)
        self._log_l2 = [math.log(probe.l2) for probe in self._probes]
        self._active_A, self._basis, self._columns = active_A, basis, columns

    def original(self, l2: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return weights (A, D) and biases (A,) of a strength: of its solution, or on the cubic through the nearest."""
        nearest = _nearest(self._log_l2, math.log(l2))
        weight_AD = sum(c * self._probes[n].weight_KD[self._active_A].astype(np.float64) for n, c in nearest)
        bias_A = sum(c * self._finite_bias(self._probes[n]) for n, c in nearest)
        return np.asarray(weight_AD, np.float32), np.asarray(bias_A, np.float32)

    def at(self, l2: float) -> Tensor:
        """Return the rotated weights (A, R) of a strength, float64; zero where there are no solutions."""
        basis = self._basis
        rotated_AR = torch.zeros(len(self._active_A), self._columns, dtype=torch.float64, device=basis.mean_D.device)
        if self._probes:
            weight_AD, bias_A = self.original(l2)
            basis.rotate(torch.from_numpy(weight_AD), torch.from_numpy(bias_A), out_KR=rotated_AR)
        return rotated_AR

    def _finite_bias(self, probe: Probe) -> NDArray[np.float64]:
        """Return the biases of the fitted classes; an infinite one, of a class it had no samples of, as the lowest."""
        bias_A = probe.bias_K[self._active_A].astype(np.float64)
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
    """Return a Probe of the fitted classes for each strength that ``start`` satisfies as it is, by the stopping rule.

    ``problem`` has features in their own coordinates. A strength costs one pass, and one that fails too, so that no
    more are tried once too many have.
    """
    found: dict[float, Probe] = {}
    preconditioner, l2, bias = PreconditionerChoice(problem), settings.path.l2, problem.bias_column
    mean_D = problem.features.basis.mean_D.double()
    rows, columns = problem.features.matrix_NR.shape
    solved = SolvedPath(start, active_A, problem.features.basis, columns=columns)
    width = tried = 0
    while tried < len(l2) and tried - 2 * len(found) <= MOST_FAILURES:
        parts = [solved.original(value) for value in l2[tried : tried + max(1, width)]]
        width = max(1, CERTIFIED_SCORES // (len(parts[0][1]) * rows))
        some = l2[tried : tried + len(parts)]
        weight_SKR = torch.zeros(len(some), len(parts[0][1]), columns, dtype=torch.float64, device=mean_D.device)
        for rotated_KR, (weight_KD, bias_K) in zip(weight_SKR, parts, strict=True):
            rotated_KR[:, :bias] = torch.from_numpy(weight_KD)
            rotated_KR[:, bias] = torch.from_numpy(bias_K) + rotated_KR[:, :bias] @ mean_D
        l2_S = torch.tensor(some, dtype=torch.float64, device=mean_D.device)
        newton = Newton(problem, preconditioner, l2_S=l2_S, total_weight=total_weight, tol=settings.tol)
        reports = newton.certify(problem.start(weight_SKR))
        for value, report, (weight_KD, bias_K) in zip(some, reports, parts, strict=True):
            if report is not None:
                found[value] = Probe(weight_KD=weight_KD, bias_K=bias_K, l2=value, report=report)
        tried += len(some)
    return found


def _nearest(log_l2: Sequence[float], at: float) -> list[tuple[int, float]]:
    """Return the solutions next to ``at`` (their indices; ``log_l2`` falls) with their coefficients in its cubic."""
    at = min(max(at, log_l2[-1]), log_l2[0])
    closest = min(range(len(log_l2)), key=lambda n: abs(log_l2[n] - at))
    if abs(log_l2[closest] - at) < SAME:
        return [(closest, 1.0)]
    after = [n for n, value in enumerate(log_l2) if value < at][: SPAN // 2]
    before = [n for n, value in enumerate(log_l2) if value > at][len(after) - SPAN :]
    nodes = [*before, *after]
    return list(zip(nodes, lagrange_coefficients([log_l2[n] for n in nodes], at), strict=True))
