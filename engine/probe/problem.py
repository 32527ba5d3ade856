"""Problem: the passes over the data that a solver asks for, here with everything in memory.

``streamed.py`` holds the other implementation. A pass serves all strengths of a block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from penultimate.engine.probe.certificate import Moments, Repair, moments, repair
from penultimate.engine.probe.design import Design
from penultimate.engine.probe.losses import Loss, Targets

# Shapes: N samples, K classes, S strengths, R columns of the turned design.


@dataclass(frozen=True, slots=True)
class Point:
    """Weights with the loss they give."""

    weight_SKR: Tensor
    """float64."""

    loss_S: Tensor
    """Mean loss, float64, without the penalty."""

    moments: Moments
    scores_SKN: Tensor | None
    """None where scores are not kept."""

    residual_SKN: Tensor | None


Line = Callable[[Tensor], tuple[Point, Tensor]]
"""Lengths (S,) -> the points there and the slopes (S,) of the mean loss along the line, float64."""


class Problem(Protocol):
    """Data, loss and targets, seen through passes."""

    penalised_R: Tensor
    """1 for weights, 0 for the bias."""

    scale_R: Tensor
    """Mean square of each column."""

    bias_column: int
    rounding: float
    """Machine epsilon of the products."""

    precision: str
    loss: Loss
    passes: float
    curvature_passes: int

    def start(self, weight_SKR: Tensor) -> Point:
        """Evaluate weights."""
        ...

    def dual_gradient(self, point: Point, wanted: float) -> tuple[Tensor, Repair]:
        """Gradient (S, K, R) of the mean loss, float64, at the repaired dual point; resolves a norm of ``wanted``."""
        ...

    def hessian(self, point: Point, direction_SKR: Tensor) -> Tensor:
        """Hessian of the mean loss times a direction."""
        ...

    def line(self, point: Point, direction_SKR: Tensor) -> Line:
        """The line ``weight + length_S * direction``."""
        ...


CACHED = 1 << 19
"""Scores worked on at once: 2 MB of float32, the second-level cache of a core."""


class InMemory:
    """Turned features, scores and residuals are kept: a step along a line costs no pass."""

    def __init__(self, design: Design, loss: Loss, targets: Targets) -> None:
        self.design, self.loss, self.targets = design, loss, targets
        self.penalised_R, self.scale_R = design.penalised_R.double(), design.scale_R.double()
        self.bias_column, self.precision = design.bias_column, design.precision
        self.rounding = torch.finfo(design.matrix_NR.dtype).eps
        self.passes = 0.0
        self.curvature_passes = 0

    def start(self, weight_SKR: Tensor) -> Point:
        """Half a pass."""
        self.passes += 0.5
        scores_MN = self.design.scores(weight_SKR.flatten(0, 1))
        return self.at(weight_SKR, scores_MN.view(*weight_SKR.shape[:2], -1))

    def at(self, weight_SKR: Tensor, scores_SKN: Tensor) -> Point:
        """Evaluate weights whose scores are known: no pass."""
        loss_SN, residual_SKN = self.evaluate(scores_SKN)
        found = moments(self.design, self.loss, self.targets, residual_SKN)
        return Point(weight_SKR, self.design.mean(loss_SN), found, scores_SKN, residual_SKN)

    def evaluate(self, scores_SKN: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (S, N) and residuals (S, K, N) of scores."""
        residual_SKN = torch.empty_like(scores_SKN)
        loss_SN = scores_SKN.new_empty(scores_SKN.shape[0], scores_SKN.shape[2])
        for rows in self._cached_rows(scores_SKN):
            targets = self.targets.rows(rows)
            loss_SN[:, rows], residual_SKN[:, :, rows] = self.loss.evaluate(scores_SKN[:, :, rows].clone(), targets)
        return loss_SN, residual_SKN

    def _cached_rows(self, scores_SKN: Tensor) -> list[slice]:
        """Rows in pieces whose scores stay in a core's cache from one operation to the next; all at once on a GPU."""
        rows, columns = scores_SKN.shape[2], scores_SKN.shape[0] * scores_SKN.shape[1]
        piece = rows if scores_SKN.device.type == "cuda" else max(2048, CACHED // columns)
        return [slice(start, start + piece) for start in range(0, rows, piece)]

    def dual_gradient(self, point: Point, wanted: float) -> tuple[Tensor, Repair]:
        """Half a pass; in float64 where float32 rounding would hide a gradient as small as ``wanted``."""
        assert point.residual_SKN is not None
        found = repair(self.loss, point.moments)
        residual_SKN = found.apply(self.loss, self.targets, point.residual_SKN)
        size = float(self.design.mean(residual_SKN.square().sum(1)).sqrt().max())
        exact = self.rounding * size * self.design.root_mean_square > wanted
        gradient = self.design.gather(residual_SKN.flatten(0, 1), exact=exact).view(*residual_SKN.shape[:2], -1)
        bias = residual_SKN if self.loss.smooth_bias else point.residual_SKN
        gradient[:, :, self.bias_column] = self.design.mean(bias)
        self.passes += 0.5
        return gradient, found

    def hessian(self, point: Point, direction_SKR: Tensor) -> Tensor:
        """One pass at the precision of Hessian products."""
        assert point.residual_SKN is not None
        self.curvature_passes += 1
        direction_MR = self.design.low(direction_SKR.flatten(0, 1))
        total_MR = torch.zeros_like(direction_MR, dtype=torch.float32 if direction_MR.dtype == torch.bfloat16 else None)
        for rows in self._cached_rows(point.residual_SKN):
            residual_SKB = point.residual_SKN[:, :, rows]
            scores_MB = self.design.low_scores(direction_MR, rows)
            change_SKB = self.loss.curve(residual_SKB, scores_MB.view_as(residual_SKB), self.targets.rows(rows))
            total_MR += self.design.low_gather(change_SKB.flatten(0, 1), rows)
        return total_MR.view_as(direction_SKR)

    def line(self, point: Point, direction_SKR: Tensor) -> Line:
        """Half a pass for the whole line."""
        assert point.scores_SKN is not None
        scores_SKN = point.scores_SKN
        self.passes += 0.5
        ahead_SKN = self.design.scores(direction_SKR.flatten(0, 1)).view_as(scores_SKN)

        def reach(length_S: Tensor) -> tuple[Point, Tensor]:
            length = length_S[:, None, None]
            there_SKN = scores_SKN + length.to(ahead_SKN.dtype) * ahead_SKN
            reached = self.at(point.weight_SKR + length * direction_SKR, there_SKN)
            assert reached.residual_SKN is not None
            return reached, self.design.mean((reached.residual_SKN * ahead_SKN).sum(1))

        return reach


def ahead(problem: InMemory, solved: Sequence[Point], mu: float, mu_S: Tensor) -> Point:
    """Starts for the strengths ``mu_S`` on the line through the last two points, the last solved for ``mu``: no pass.

    Steps are first taken to shrink as the last did against the one before it, since at weak l2 a path comes to its end;
    then one secant step takes each to about the lowest objective of the line.
    """
    step_SKR, step_SKN = _step(solved[-2], solved[-1])
    last = solved[-1]
    assert last.scores_SKN is not None
    ratio = 1.0
    if len(solved) > 2:
        step_before_SKN = _step(solved[-3], solved[-2])[1]
        before = float(step_before_SKN.square().sum())
        ratio = min(max(float((step_SKN * step_before_SKN).sum()) / before, 0.0), 1.0) if before > 0 else 1.0
    powers_S = ratio ** torch.arange(len(mu_S), dtype=torch.float64, device=step_SKN.device)
    length_S = powers_S.cumsum(0)
    pull = float((last.weight_SKR * step_SKR * problem.penalised_R).sum())
    bend = float((step_SKR.square() * problem.penalised_R).sum())
    at_last_S = (mu_S - mu) * pull  # the slope there: at mu it was zero
    _, residual_SKN = problem.evaluate(last.scores_SKN + length_S.to(step_SKN.dtype)[:, None, None] * step_SKN)
    beyond_S = problem.design.mean((residual_SKN * step_SKN).sum(1)) + mu_S * (pull + length_S * bend)
    secant_S = length_S * (at_last_S / (at_last_S - beyond_S)).clamp(0.5, 2.0)
    length_S = torch.where(at_last_S < 0, secant_S, length_S)[:, None, None]
    return problem.at(last.weight_SKR + length_S * step_SKR, last.scores_SKN + length_S.to(step_SKN.dtype) * step_SKN)


def _step(start: Point, end: Point) -> tuple[Tensor, Tensor]:
    """Of weights and of scores."""
    assert start.scores_SKN is not None
    assert end.scores_SKN is not None
    return end.weight_SKR - start.weight_SKR, end.scores_SKN - start.scores_SKN
