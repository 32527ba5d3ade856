"""Problem: the passes over the data that a solver asks for, here with everything in memory.

``streamed.py`` holds the other implementation. A pass serves all strengths of a block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from penultimate.engine.probe.kernels.kernels import MatrixUnits
from penultimate.engine.probe.objective.design import Design
from penultimate.engine.probe.objective.duality_gap import Moments, Repair, moments, repair
from penultimate.engine.probe.objective.losses import Loss, Targets

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


Space = Callable[[Sequence[float]], tuple[float, Tensor, Tensor]]
"""Shares of a first point and others -> mean loss at first + sum_m share_m (other_m - first), its gradient (M,) and
Hessian (M, M) by the shares, float64 on the CPU."""

Line = Callable[[Tensor], tuple[Point, Tensor | None]]
"""Lengths (S,) -> the points there and, unless the loss is smooth, its slopes (S,) along the line, float64."""


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
        """Hessian of the mean loss times a direction, spread; ``exact`` at the precision of gradients."""
        ...

    def line(self, point: Point, direction_SKR: Tensor) -> Line:
        """The line ``weight + length_S * direction``."""
        ...


def spread(loss: Loss, values_SKR: Tensor) -> Tensor:
    """Without what all classes share, where the loss does not see it.

    There the Hessian is mu alone: rounding of a product, let in, would be divided by mu and drown the rest of CG.
    """
    return values_SKR - values_SKR.mean(1, keepdim=True) if loss.shared_null else values_SKR


CACHED = 1 << 19
"""Scores worked on at once: 2 MB of float32, the second-level cache of a core."""


class InMemory:
    """Turned features, scores and residuals are kept: a step along a line costs no pass."""

    units: MatrixUnits | None = None
    """What the features are multiplied on besides torch (``softmax_on_units.py``)."""

    def __init__(self, design: Design, loss: Loss, targets: Targets) -> None:
        self.design, self.loss, self.targets = design, loss, targets
        self.penalised_R, self.scale_R = design.penalised_R.double(), design.scale_R.double()
        self.bias_column, self.precision = design.bias_column, design.precision
        self.dtype = design.matrix_NR.dtype
        self.rounding = design.rounding
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
        moved_SKN = self._moved(weight_KR, step_SKR).view(len(step_SKR), *scores_KN.shape)
        return self.at(weight_KR + step_SKR, scores_KN + moved_SKN)

    def at(self, weight_SKR: Tensor, scores_SKN: Tensor) -> Point:
        """Evaluate weights whose scores are known: no pass."""
        loss_SN, residual_SKN = self.evaluate(scores_SKN)
        return Point(weight_SKR, self.design.mean(loss_SN), self._moments(residual_SKN), scores_SKN, residual_SKN)

    def _moments(self, residual_SKN: Tensor) -> Moments:
        return moments(self.design, self.loss, self.targets, residual_SKN)

    def evaluate(self, scores_SKN: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (S, N) and residuals (S, K, N) of scores."""
        residual_SKN = torch.empty_like(scores_SKN, dtype=self.dtype)
        loss_SN = residual_SKN.new_empty(scores_SKN.shape[0], scores_SKN.shape[2])
        for rows in self._cached_rows(scores_SKN):
            written_SKB = residual_SKN[:, :, rows].copy_(scores_SKN[:, :, rows])
            loss_SN[:, rows], _ = self.loss.evaluate(written_SKB, self.targets.rows(rows))
        return loss_SN, residual_SKN

    def space(self, first_KN: Tensor, others: Sequence[Tensor]) -> Space:
        """The space of scores through these points: no pass."""
        step_MKN = torch.stack([other_KN - first_KN for other_KN in others])
        step_MX = step_MKN.flatten(1)

        def look(shares: Sequence[float]) -> tuple[float, Tensor, Tensor]:
            moved_KN = torch.tensordot(step_MKN.new_tensor(shares), step_MKN, 1)
            loss_1N, residual_1KN = self.evaluate((first_KN + moved_KN)[None])
            pull_1KN, scale = self.design.weighted(residual_1KN)
            slope_M = step_MX @ pull_1KN.flatten()
            curved_MKN = self.loss.curve(residual_1KN.expand_as(step_MKN), step_MKN.clone(), self.targets)
            bend_MM = self.design.weighted(curved_MKN)[0].flatten(1) @ step_MX.T
            loss = float(self.design.mean(loss_1N))
            return loss, slope_M.double().cpu() * scale, bend_MM.double().cpu() * scale

        return look

    def _cached_rows(self, scores_SKN: Tensor) -> list[slice]:
        """Rows in pieces whose scores stay in a core's cache from one operation to the next; all at once on a GPU."""
        rows, columns = scores_SKN.shape[2], scores_SKN.shape[0] * scores_SKN.shape[1]
        piece = rows if scores_SKN.device.type == "cuda" else max(2048, CACHED // columns)
        return [slice(start, start + piece) for start in range(0, rows, piece)]

    def gradients(self, point: Point, wanted: float) -> Gradients:
        """One or two halves of a pass; in float64 where float32 rounding would hide a norm of ``wanted``."""
        assert point.residual_SKN is not None
        found = repair(self.loss, point.moments)
        exact = self.rounding * self.design.size(point.residual_SKN) * self.design.root_mean_square > wanted
        dual_SKR = self._dual(point.residual_SKN, found, exact=exact)
        step_SKR = dual_SKR if self.loss.smooth else self._gather(point.residual_SKN, exact=exact)
        for gradient_SKR in (step_SKR, dual_SKR):
            gradient_SKR[:, :, self.bias_column] = found.bias_SK
        self.passes += 0.5 if self.loss.smooth else 1
        return Gradients(step_SKR, dual_SKR, found)

    def _dual(self, residual_SKN: Tensor, found: Repair, *, exact: bool) -> Tensor:
        return self._gather(found.apply(self.loss, self.targets, residual_SKN), exact=exact)

    def _gather(self, residual_SKN: Tensor, *, exact: bool) -> Tensor:
        return self.design.gather(residual_SKN.flatten(0, 1), exact=exact).view(*residual_SKN.shape[:2], -1)

    def hessian(self, point: Point, direction_SKR: Tensor, *, exact: bool) -> Tensor:
        """One pass."""
        residual_SKN = point.residual_SKN
        assert residual_SKN is not None
        self.curvature_passes += 1
        if exact:
            scores_SKN = self.design.scores(direction_SKR.flatten(0, 1)).view_as(residual_SKN)
            change_SKN = self.loss.curve(residual_SKN, scores_SKN, self.targets)
            return spread(self.loss, self.design.gather(change_SKN.flatten(0, 1)).view_as(direction_SKR))
        direction_MR = self.design.low(direction_SKR.flatten(0, 1))
        total_MR = torch.zeros_like(direction_MR, dtype=torch.float32 if direction_MR.dtype == torch.bfloat16 else None)
        for rows in self._cached_rows(residual_SKN):
            residual_SKB = residual_SKN[:, :, rows]
            scores_MB = self.design.low_scores(direction_MR, rows)
            change_SKB = self.loss.curve(residual_SKB, scores_MB.view_as(residual_SKB), self.targets.rows(rows))
            total_MR += self.design.low_gather(change_SKB.flatten(0, 1), rows)
        return spread(self.loss, total_MR.view_as(direction_SKR))

    def _moved(self, weight_SKR: Tensor, step_SKR: Tensor) -> Tensor:
        """Scores (M, N) of a step from weights."""
        return self.design.scores(step_SKR.flatten(0, 1))

    def line(self, point: Point, direction_SKR: Tensor) -> Line:
        """Half a pass for the whole line."""
        assert point.scores_SKN is not None
        scores_SKN = point.scores_SKN
        self.passes += 0.5
        ahead_SKN = self._moved(point.weight_SKR, direction_SKR).view_as(scores_SKN)

        def reach(length_S: Tensor) -> tuple[Point, Tensor | None]:
            length = length_S[:, None, None]
            there_SKN = torch.addcmul(scores_SKN, ahead_SKN, length.to(self.dtype))
            reached = self.at(torch.addcmul(point.weight_SKR, length, direction_SKR), there_SKN)
            if self.loss.smooth:
                return reached, None
            assert reached.residual_SKN is not None
            return reached, self.design.mean((reached.residual_SKN * ahead_SKN).sum(1))

        return reach
