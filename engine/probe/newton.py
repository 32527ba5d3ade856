"""Preconditioned Newton-CG on a block of strengths: exact gradients, cheap Hessian products, a certified stop.

Comes in: a design, a loss with its targets, strengths, a start. Goes out: weights and a SolveReport a strength.

The stopping rule, for a tolerance ``tol`` (dimensionless, relative to the objective F = mean loss + l2/2N ||W||^2):

    certified gap <= tol * F    and    estimated distance <= tol * F / 100

The gap bounds F minus its optimum (``certificate.py``). Where it is loose (weak l2) it is what takes the time; where
it is tight (strong l2) the second part, half the squared gradient in the preconditioner's metric, asks for more. With
the default 1e-4, F is certified to 0.01 % and was found within 1e-6 of scikit-learn's tightest everywhere.

A step solves H d = -g by conjugate gradients (Nocedal & Wright 2006, algorithm 7.1) with the metric
diag(1 / (curvature of the class * variance of the direction + mu)), to a residual ``FORCING`` of the first or until the
quadratic model meets the stopping rule. H is multiplied at low precision: its rounding slows CG a little and cannot
move the solution, because gradients come from ``dtype`` products. W is kept in float64 and scores are updated by
the product of each step, so that float32 rounding of W, which all samples would share, never enters the gradient.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from penultimate.engine.probe.certificate import Repair, repair
from penultimate.engine.probe.design import Design
from penultimate.engine.probe.losses import Loss, Targets
from penultimate.engine.probe.probe_result import SolveReport

# Shapes: N samples, K classes, S strengths, R columns of the turned design.

FORCING = 0.1
"""CG stops at this residual relative to its first; 0.03 and 0.3 took as long on Caltech-101."""

CG_LIMIT = 250
STEP_LIMIT = 60
STALLED_STEPS = 4
"""Steps without a smaller gap after which rounding is taken to be the limit."""


@dataclass(frozen=True, slots=True)
class Iterate:
    """Weights in the turned basis with the scores they give."""

    weight_SKR: Tensor
    """float64."""

    scores_SKN: Tensor

    def ahead(self, before: "Iterate") -> "Iterate":
        """The next point of the line from ``before`` through here: a start for the next strength, no pass needed."""
        return Iterate(2 * self.weight_SKR - before.weight_SKR, 2 * self.scores_SKN - before.scores_SKN)


@dataclass(slots=True)
class _Point:
    """All that is known at one iterate."""

    iterate: Iterate
    data_loss_S: Tensor
    residual_SKN: Tensor
    objective_S: Tensor


class Newton:
    """One block of strengths being solved; ``solve`` is the recipe."""

    def __init__(self, design: Design, loss: Loss, targets: Targets, *, l2_S: Tensor, total_weight: float, tol: float) -> None:
        self.design, self.loss, self.targets, self.tol = design, loss, targets, tol
        self.mu_S = l2_S.double() / total_weight
        self.mu_SKR = self.mu_S[:, None, None] * design.penalised_R.double()
        self.passes = 0.0
        self.curvature_passes = 0

    def solve(self, start: Iterate) -> tuple[Iterate, list[SolveReport]]:
        """Iterate until every strength meets the stopping rule, stalls, or is out of steps."""
        began = time.perf_counter()
        point = self._evaluate(start)
        best_S, since_S = torch.full_like(self.mu_S, torch.inf), torch.zeros_like(self.mu_S)
        for step in range(STEP_LIMIT + 1):
            repaired = repair(self.design, self.loss, self.targets, point.residual_SKN)
            gradient = self._gradient(point, repaired)
            weight_norm_S = (gradient.square() * self.design.penalised_R).sum((1, 2))
            gap_S = weight_norm_S / (2 * self.mu_S) + repaired.excess_S
            metric = self._metric(point)
            distance_S = ((gradient.square() * metric).sum((1, 2)) + repaired.excess_S) / 2
            allowed_S = self.tol * point.objective_S
            met_S = (gap_S <= allowed_S) & (distance_S <= allowed_S / 100)
            since_S = torch.where(gap_S < 0.9 * best_S, 0, since_S + 1)
            best_S = torch.minimum(best_S, gap_S)
            stalled_S = since_S >= STALLED_STEPS
            finished_S = met_S | stalled_S
            if finished_S.all() or step == STEP_LIMIT:
                break
            direction = self._direction(point, gradient, metric, finished_S, allowed_S)
            direction[:, :, self.design.bias_column] += torch.where(finished_S[:, None], 0.0, repaired.shift_SK)
            point = self._advance(point, gradient, direction)
        seconds = time.perf_counter() - began
        reports = self._reports(point, gradient, gap_S, met_S, stalled_S, step, seconds)
        return point.iterate, reports

    def _evaluate(self, iterate: Iterate) -> _Point:
        loss_SN, residual_SKN = self.loss.evaluate(iterate.scores_SKN.clone(), self.targets)
        data_loss_S = self.design.mean(loss_SN)
        penalty_S = (self.mu_SKR * iterate.weight_SKR.square()).sum((1, 2)) / 2
        return _Point(iterate, data_loss_S, residual_SKN, data_loss_S + penalty_S)

    def _gradient(self, point: _Point, repaired: Repair) -> Tensor:
        """Gradient (float64) at the repaired dual point: that of the objective once the bias has moved to its best.

        From float64 products where float32 rounding would hide a gradient as small as the tolerance asks for.
        """
        residual_SKN = repaired.residual_SKN
        wanted = float((2 * self.mu_S * self.tol * point.objective_S).sqrt().min())
        size = float(self.design.mean(residual_SKN.square().sum(1)).sqrt().max())
        noise = torch.finfo(residual_SKN.dtype).eps * size * self.design.root_mean_square
        gathered_MR = self.design.gather(residual_SKN.flatten(0, 1), exact=noise > wanted)
        gradient = gathered_MR.view(*residual_SKN.shape[:2], -1) + self.mu_SKR * point.iterate.weight_SKR
        bias = residual_SKN if self.loss.smooth_bias else point.residual_SKN
        gradient[:, :, self.design.bias_column] = self.design.mean(bias)
        self.passes += 0.5
        return gradient

    def _metric(self, point: _Point) -> Tensor:
        """Inverse of the Hessian's diagonal, with the variance of a direction taken to be that of every class."""
        curvature_SK = self.design.mean(self.loss.curvature(point.residual_SKN, self.targets))
        diagonal = curvature_SK[:, :, None] * self.design.scale_R.double() + self.mu_SKR
        floor = 1e-12 * diagonal.amax(2, keepdim=True)
        return 1 / torch.maximum(diagonal, floor.clamp_min(1e-300))

    def _direction(self, point: _Point, gradient: Tensor, metric: Tensor, finished_S: Tensor, allowed_S: Tensor) -> Tensor:
        """Conjugate gradients on H d = -g, all strengths at once; those finished stay where they are."""
        residual = -gradient
        direction = torch.zeros_like(gradient)
        scaled = metric * residual
        search = scaled.clone()
        size_S = (residual * scaled).sum((1, 2))
        first_S = size_S.clone()
        for _ in range(CG_LIMIT):
            product = self._hessian(point, search)
            curvature_S = (search * product).sum((1, 2))
            usable_S = ~finished_S & (curvature_S > 0)
            step = torch.where(usable_S, size_S / curvature_S, 0.0)[:, None, None]
            direction += step * search
            residual -= step * product
            scaled = metric * residual
            next_S = (residual * scaled).sum((1, 2))
            gap_S = (residual.square() * self.design.penalised_R).sum((1, 2)) / (2 * self.mu_S)
            enough_S = (gap_S <= allowed_S / 4) & (next_S / 2 <= allowed_S / 400)
            if (enough_S | (next_S <= FORCING**2 * first_S) | ~usable_S).all():
                break
            search = scaled + (next_S / size_S)[:, None, None] * search
            size_S = next_S
        return direction

    def _hessian(self, point: _Point, direction: Tensor) -> Tensor:
        shape = point.residual_SKN.shape
        scores = self.design.low_scores(direction.flatten(0, 1)).view(shape)
        change = self.loss.curve(point.residual_SKN, scores, self.targets)
        product = self.design.low_gather(change.flatten(0, 1)).view_as(direction)
        self.curvature_passes += 1
        return product + self.mu_SKR * direction

    def _advance(self, point: _Point, gradient: Tensor, direction: Tensor) -> _Point:
        """Backtrack until each strength decreases enough (Armijo, 1e-4); only the scores are recomputed."""
        weight, scores = point.iterate.weight_SKR, point.iterate.scores_SKN
        scores_ahead = self.design.scores(direction.flatten(0, 1)).view_as(scores)
        self.passes += 0.5
        slope_S = (gradient * direction).sum((1, 2))  # the bias's own share, -q, is left out: stricter by nothing that matters
        length = torch.ones_like(self.mu_SKR[:, :1, :1])
        rounding_S = 10 * torch.finfo(scores.dtype).eps * point.objective_S.abs()
        for _ in range(30):
            ahead = Iterate(weight + length * direction, scores + length.to(scores.dtype) * scores_ahead)
            reached = self._evaluate(ahead)
            allowed_S = point.objective_S + 1e-4 * length.flatten() * slope_S + rounding_S
            short_S = reached.objective_S > allowed_S
            if not short_S.any():
                break
            length = torch.where(short_S[:, None, None], length * 0.4, length)
        return reached

    def _reports(
        self, point: _Point, gradient: Tensor, gap_S: Tensor, met_S: Tensor, stalled_S: Tensor, steps: int, seconds: float
    ) -> list[SolveReport]:
        norm_S = gradient.square().sum((1, 2)).sqrt()
        return [
            SolveReport(
                status="certified" if met_S[s] else "stalled" if stalled_S[s] else "step_limit",
                steps=steps,
                passes=self.passes,
                curvature_passes=self.curvature_passes,
                objective=float(point.objective_S[s]),
                gradient_norm=float(norm_S[s]),
                gap=float(gap_S[s]),
                seconds=seconds / len(gap_S),
                precision=self.design.precision,
            )
            for s in range(len(gap_S))
        ]
