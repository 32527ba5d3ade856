"""Problem: the passes over the data that a solver asks for, here with everything in memory.

``streamed.py`` holds the other implementation. A pass serves all strengths of a block.
"""

from collections.abc import Callable
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


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of the mean loss, (S, K, R) float64, without the penalty."""

    step_SKR: Tensor
    """What Newton's equations have on their right: for smooth losses the gradient once the bias has moved."""

    dual_SKR: Tensor
    """At the repaired dual point: for smooth losses the same."""

    repair: Repair


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

    def gradients(self, point: Point, wanted: float) -> Gradients:
        """For a step and for a certificate; they resolve a norm of ``wanted``."""
        ...

    def hessian(self, point: Point, direction_SKR: Tensor, *, exact: bool) -> Tensor:
        """Hessian of the mean loss times a direction; ``exact`` at the precision of gradients."""
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
        self.dtype = design.matrix_NR.dtype
        self.rounding = torch.finfo(self.dtype).eps
        self.passes = 0.0
        self.curvature_passes = 0

    def start(self, weight_SKR: Tensor) -> Point:
        """Half a pass."""
        self.passes += 0.5
        scores_MN = self.design.scores(weight_SKR.flatten(0, 1))
        return self.at(weight_SKR, scores_MN.view(*weight_SKR.shape[:2], -1))

    def step(self, weight_KR: Tensor, scores_KN: Tensor, step_SKR: Tensor) -> Point:
        """Half a pass: weights whose scores are known, and a step from there."""
        self.passes += 0.5
        scores_MN = self.design.scores(step_SKR.flatten(0, 1))
        return self.at(weight_KR + step_SKR, scores_KN + scores_MN.view(len(step_SKR), *scores_KN.shape))

    def at(self, weight_SKR: Tensor, scores_SKN: Tensor) -> Point:
        """Evaluate weights whose scores are known: no pass."""
        loss_SN, residual_SKN = self.evaluate(scores_SKN)
        found = moments(self.design, self.loss, self.targets, residual_SKN)
        return Point(weight_SKR, self.design.mean(loss_SN), found, scores_SKN, residual_SKN)

    def evaluate(self, scores_SKN: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (S, N) and residuals (S, K, N) of scores."""
        residual_SKN = torch.empty_like(scores_SKN, dtype=self.dtype)
        loss_SN = residual_SKN.new_empty(scores_SKN.shape[0], scores_SKN.shape[2])
        for rows in self._cached_rows(scores_SKN):
            written_SKB = residual_SKN[:, :, rows].copy_(scores_SKN[:, :, rows])
            loss_SN[:, rows], _ = self.loss.evaluate(written_SKB, self.targets.rows(rows))
        return loss_SN, residual_SKN

    def _cached_rows(self, scores_SKN: Tensor) -> list[slice]:
        """Rows in pieces whose scores stay in a core's cache from one operation to the next; all at once on a GPU."""
        rows, columns = scores_SKN.shape[2], scores_SKN.shape[0] * scores_SKN.shape[1]
        piece = rows if scores_SKN.device.type == "cuda" else max(2048, CACHED // columns)
        return [slice(start, start + piece) for start in range(0, rows, piece)]

    def gradients(self, point: Point, wanted: float) -> Gradients:
        """One or two halves of a pass; in float64 where float32 rounding would hide a norm of ``wanted``."""
        assert point.residual_SKN is not None
        found = repair(self.loss, point.moments)
        dual_SKR = self._gradient(found.apply(self.loss, self.targets, point.residual_SKN), found, wanted)
        step_SKR = dual_SKR if self.loss.smooth else self._gradient(point.residual_SKN, found, wanted)
        return Gradients(step_SKR, dual_SKR, found)

    def _gradient(self, residual_SKN: Tensor, found: Repair, wanted: float) -> Tensor:
        exact = self.rounding * self.design.size(residual_SKN) * self.design.root_mean_square > wanted
        gradient = self.design.gather(residual_SKN.flatten(0, 1), exact=exact).view(*residual_SKN.shape[:2], -1)
        gradient[:, :, self.bias_column] = found.bias_SK
        self.passes += 0.5
        return gradient

    def hessian(self, point: Point, direction_SKR: Tensor, *, exact: bool) -> Tensor:
        """One pass."""
        residual_SKN = point.residual_SKN
        assert residual_SKN is not None
        self.curvature_passes += 1
        if exact:
            scores_SKN = self.design.scores(direction_SKR.flatten(0, 1)).view_as(residual_SKN)
            change_SKN = self.loss.curve(residual_SKN, scores_SKN, self.targets)
            return self.design.gather(change_SKN.flatten(0, 1)).view_as(direction_SKR)
        direction_MR = self.design.low(direction_SKR.flatten(0, 1))
        total_MR = torch.zeros_like(direction_MR, dtype=torch.float32 if direction_MR.dtype == torch.bfloat16 else None)
        for rows in self._cached_rows(residual_SKN):
            residual_SKB = residual_SKN[:, :, rows]
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
            there_SKN = torch.addcmul(scores_SKN, ahead_SKN, length.to(self.dtype))
            reached = self.at(point.weight_SKR + length * direction_SKR, there_SKN)
            assert reached.residual_SKN is not None
            return reached, self.design.mean((reached.residual_SKN * ahead_SKN).sum(1))

        return reach
