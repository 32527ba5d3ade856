"""Preconditioned Newton-CG on a block of strengths: exact gradients, cheap Hessian products, a certified stop.

Comes in: a design, a loss with its targets, strengths, a start. Goes out: weights and a SolveReport a strength.

The stopping rule, for a tolerance ``tol`` (dimensionless, relative to the objective F = mean loss + l2/2N ||W||^2):

    certified gap <= tol * F    and    min(certified gap, 10 * estimated distance) <= tol * F / 100

The gap bounds F minus its optimum (``certificate.py``). It is tight at strong l2; at weak l2 it is loose by orders of
magnitude, and the estimate says how far F really is: half the squared gradient in the preconditioner's metric over
the smallest Ritz value of the steps so far. Such values come from above, hence the factor of 10; before the first
step only the gap counts. With the default 1e-4, F is certified to 0.01 % and expected within 1e-6.

A step solves H d = -g by preconditioned conjugate gradients (Nocedal & Wright 2006, algorithm 7.1) to a residual
``FORCING`` of the first or until the quadratic model meets the stopping rule. H is multiplied at low precision: its
rounding slows CG a little and cannot move the solution, because gradients come from products in the main dtype. W is
kept in float64 and scores are updated by the product of each step, so that float32 rounding of W, which all samples
would share, never enters the gradient.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from penultimate.engine.probe.certificate import Repair, repair
from penultimate.engine.probe.conjugate import Solution, conjugate_gradients
from penultimate.engine.probe.preconditioner import Apply, Preconditioner
from penultimate.engine.probe.probe_result import SolveReport

# Shapes: N samples, K classes, S strengths, R columns of the turned design.

FORCING = 0.1
"""CG stops at this residual relative to its first; 0.03 and 0.3 took as long on Caltech-101."""

CLOSE = 0.01
"""Share of the tolerance that the distance, by the gap or by the estimate, must meet."""

SAFETY = 10
"""What the estimated distance is multiplied by."""

STEP_LIMIT = 60
STALLED_STEPS = 4
"""Steps without a smaller gap after which rounding is taken to be the limit."""


@dataclass(frozen=True, slots=True)
class Iterate:
    """Weights in the turned basis with the scores they give."""

    weight_SKR: Tensor
    """float64."""

    scores_SKN: Tensor

    def last(self) -> "Iterate":
        """The last strength alone."""
        return Iterate(self.weight_SKR[-1:], self.scores_SKN[-1:])

    def ahead(self, before: "Iterate", count: int) -> "Iterate":
        """The next ``count`` points of the line from ``before`` through here: starts that need no pass."""
        steps = torch.arange(1, count + 1, dtype=torch.float64, device=self.weight_SKR.device)[:, None, None]
        return Iterate(
            self.weight_SKR + steps * (self.weight_SKR - before.weight_SKR),
            self.scores_SKN + steps.to(self.scores_SKN.dtype) * (self.scores_SKN - before.scores_SKN),
        )


@dataclass(frozen=True, slots=True)
class _Point:
    """An iterate with its loss."""

    iterate: Iterate
    residual_SKN: Tensor
    objective_S: Tensor


@dataclass(frozen=True, slots=True)
class _Slope:
    """The gradient at a point, its bound on the distance to the optimum, and the preconditioner that goes with it."""

    gradient_SKR: Tensor
    precondition: Apply
    shift_SK: Tensor
    gap_S: Tensor
    model_S: Tensor
    """Half the squared gradient in the metric: the distance, were the preconditioner the Hessian's inverse."""


class Newton:
    """One block of strengths being solved; ``solve`` is the recipe."""

    def __init__(self, preconditioner: Preconditioner, *, l2_S: Tensor, total_weight: float, tol: float) -> None:
        self.preconditioner, self.tol = preconditioner, tol
        self.design, self.loss, self.targets = preconditioner.design, preconditioner.loss, preconditioner.targets
        self.mu_S = l2_S.double() / total_weight
        self.mu_SKR = self.mu_S[:, None, None] * self.design.penalised_R.double()
        self.passes = 0.0
        self.curvature_passes = 0

    def solve(self, start: Iterate) -> tuple[Iterate, list[SolveReport]]:
        """Iterate until every strength meets the stopping rule, stalls, or is out of steps."""
        began = time.perf_counter()
        point = self._evaluate(start)
        smallest_S = torch.ones_like(self.mu_S)
        best_S, since_S = torch.full_like(self.mu_S, torch.inf), torch.zeros_like(self.mu_S)
        for step in range(STEP_LIMIT + 1):
            slope = self._slope(point, first=step == 0)
            allowed_S = self.tol * point.objective_S
            distance_S = torch.minimum(slope.gap_S, SAFETY * slope.model_S / smallest_S if step else slope.gap_S)
            met_S = (slope.gap_S <= allowed_S) & (distance_S <= CLOSE * allowed_S)
            # No bound at all is not a lack of progress: far from the optimum the bias gradient cannot be repaired yet.
            since_S = torch.where((slope.gap_S < 0.9 * best_S) | slope.gap_S.isinf(), 0, since_S + 1)
            best_S = torch.minimum(best_S, slope.gap_S)
            stalled_S = since_S >= STALLED_STEPS
            if (met_S | stalled_S).all() or step == STEP_LIMIT:
                break
            solution = self._direction(point, slope, smallest_S, frozen_S=met_S | stalled_S)
            smallest_S = torch.minimum(smallest_S, solution.smallest_S)
            point = self._advance(point, slope, solution.direction_SKR)
        self.preconditioner.products = self.curvature_passes
        seconds = time.perf_counter() - began
        status = [
            "certified" if met else "stalled" if stalled else "step_limit"
            for met, stalled in zip(met_S.tolist(), stalled_S.tolist(), strict=True)
        ]
        return point.iterate, [self._report(s, point, slope, status[s], step, seconds) for s in range(len(status))]

    def _evaluate(self, iterate: Iterate) -> _Point:
        loss_SN, residual_SKN = self.loss.evaluate(iterate.scores_SKN.clone(), self.targets)
        penalty_S = (self.mu_SKR * iterate.weight_SKR.square()).sum((1, 2)) / 2
        return _Point(iterate, residual_SKN, self.design.mean(loss_SN) + penalty_S)

    def _slope(self, point: _Point, *, first: bool) -> _Slope:
        repaired = repair(self.design, self.loss, self.targets, point.residual_SKN)
        gradient = self._gradient(point, repaired)
        norm_S = (gradient.square() * self.design.penalised_R).sum((1, 2))
        precondition = self.preconditioner.at(point.residual_SKN, self.mu_S, first=first)
        return _Slope(
            gradient_SKR=gradient,
            precondition=precondition,
            shift_SK=repaired.shift_SK,
            gap_S=norm_S / (2 * self.mu_S) + repaired.excess_S,
            model_S=((gradient * precondition(gradient)).sum((1, 2)) + repaired.excess_S) / 2,
        )

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

    def _direction(self, point: _Point, slope: _Slope, smallest_S: Tensor, *, frozen_S: Tensor) -> Solution:
        """Newton's direction, the bias's own step included; zero where ``frozen_S``."""
        allowed_S = self.tol * point.objective_S

        def enough(residual_SKR: Tensor, size_S: Tensor, first_S: Tensor) -> Tensor:
            gap_S = (residual_SKR.square() * self.design.penalised_R).sum((1, 2)) / (2 * self.mu_S)
            distance_S = torch.minimum(gap_S, SAFETY * size_S / 2 / smallest_S)
            meets_rule_S = (gap_S <= allowed_S / 4) & (distance_S <= CLOSE * allowed_S / 4)
            return meets_rule_S | (size_S <= FORCING**2 * first_S)

        solution = conjugate_gradients(
            lambda direction_SKR: self._hessian(point, direction_SKR),
            slope.precondition,
            -slope.gradient_SKR,
            enough=enough,
            frozen_S=frozen_S,
        )
        solution.direction_SKR[:, :, self.design.bias_column] += torch.where(frozen_S[:, None], 0.0, slope.shift_SK)
        self.curvature_passes += solution.products
        return solution

    def _hessian(self, point: _Point, direction_SKR: Tensor) -> Tensor:
        scores_MN = self.design.low_scores(direction_SKR.flatten(0, 1))
        change_SKN = self.loss.curve(point.residual_SKN, scores_MN.view_as(point.residual_SKN), self.targets)
        product_MR = self.design.low_gather(change_SKN.flatten(0, 1))
        return product_MR.view_as(direction_SKR) + self.mu_SKR * direction_SKR

    def _advance(self, point: _Point, slope: _Slope, direction_SKR: Tensor) -> _Point:
        """Backtrack until each strength decreases enough (Armijo, 1e-4); only the scores are recomputed."""
        weight, scores = point.iterate.weight_SKR, point.iterate.scores_SKN
        scores_ahead = self.design.scores(direction_SKR.flatten(0, 1)).view_as(scores)
        self.passes += 0.5
        # The bias's own share of the slope, -q, is left out: the test is stricter by less than it is worth computing.
        slope_S = (slope.gradient_SKR * direction_SKR).sum((1, 2))
        length = torch.ones_like(self.mu_SKR[:, :1, :1])
        rounding_S = 10 * torch.finfo(scores.dtype).eps * point.objective_S.abs()
        for _ in range(30):
            ahead = Iterate(weight + length * direction_SKR, scores + length.to(scores.dtype) * scores_ahead)
            reached = self._evaluate(ahead)
            allowed_S = point.objective_S + 1e-4 * length.flatten() * slope_S + rounding_S
            short_S = reached.objective_S > allowed_S
            if not short_S.any():
                break
            length = torch.where(short_S[:, None, None], length * 0.4, length)
        return reached

    def _report(self, s: int, point: _Point, slope: _Slope, status: str, steps: int, seconds: float) -> SolveReport:
        return SolveReport(
            status=status,
            steps=steps,
            passes=self.passes,
            curvature_passes=self.curvature_passes,
            objective=float(point.objective_S[s]),
            gradient_norm=float(slope.gradient_SKR[s].norm()),
            gap=float(slope.gap_S[s]),
            seconds=seconds / len(slope.gap_S),
            precision=self.design.precision,
        )
