"""Preconditioned Newton-CG on a block of strengths: exact gradients, cheap Hessian products, a certified stop.

Comes in: a design, a loss with its targets, strengths, a start. Goes out: weights and a SolveReport a strength.

The stopping rule, for a tolerance ``tol`` (dimensionless) on the objective F = mean loss + P, P = l2/2N ||W||^2:

    certified gap <= tol * F    and    min(certified gap, 10 * estimated distance) <= tol / 100 * max(P, F / 1000)

The gap bounds F minus its optimum (``certificate.py``). It is tight at strong l2; at weak l2 it is loose by orders of
magnitude, and the estimate says how far F is expected to be: half the squared gradient in the preconditioner's metric
times the ``reach`` of the last step (``conjugate.py``). On small data, which are solved in float64, only the gap
counts. F - F* is at least l2/2N ||W - W*||^2: with the default 1e-4, F is certified to 0.01 %, and W expected within
0.1 % of its norm. The second part matters at strong l2, where W is small and F hardly depends on it. Where rounding
allows the first part only, the strength is certified all the same.

A step solves H d = -g by preconditioned conjugate gradients (Nocedal & Wright 2006, algorithm 7.1) to a residual the
loss's ``forcing`` of the first or until the quadratic model meets the stopping rule. H is multiplied at low precision:
its rounding slows CG a little and cannot move the solution, because gradients come from more exact products. W
is kept in float64 and scores are updated by the product of each step, so that float32 rounding of W, which all samples
would share, never enters the gradient.
"""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import Point, Problem, spread
from penultimate.engine.probe.preconditioners.choose import Apply, Preconditioner
from penultimate.engine.probe.result import SolveReport
from penultimate.engine.probe.solver.conjugate_gradient import Solution, conjugate_gradients

# Shapes: N samples, K classes, S strengths, R columns of the turned design.

CLOSE = 0.01
"""Share of the tolerance that the distance, by the gap or by the estimate, must meet: relative to the penalty."""

SMALL_PENALTY = 1e-3
"""A penalty below this share of the objective counts as that much."""

SAFETY = 10
"""What the estimated distance is multiplied by."""

A_DIGIT = 0.1
"""Residual that CG reaches at least under the squared hinge, whose gap is mostly the bias's: up to 88 steps without."""

STEP_LIMIT = 200
STALLED_STEPS = 8
"""Steps without a smaller gap after which rounding is taken to be the limit."""


@dataclass(frozen=True, slots=True)
class _Slope:
    """The gradient at a point, its bound on the distance to the optimum, and the preconditioner that goes with it."""

    gradient_SKR: Tensor
    precondition: Apply
    scaled_SKR: Tensor
    """The gradient, preconditioned."""

    shift_SK: Tensor
    gap_S: Tensor
    model_S: Tensor
    """Half the squared gradient in the metric: the distance, were the preconditioner the Hessian's inverse."""


class Newton:
    """One block of strengths being solved; ``solve`` is the recipe."""

    def __init__(
        self, problem: Problem, preconditioner: Preconditioner, *, l2_S: Tensor, total_weight: float, tol: float
    ) -> None:
        self.problem, self.preconditioner, self.tol = problem, preconditioner, tol
        self.exact = problem.rounding < 1e-12
        self.mu_S = l2_S.double() / total_weight
        self.mu_SKR = self.mu_S[:, None, None] * problem.penalised_R
        self.working_mu_SKR = self.mu_SKR.to(preconditioner.dtype)

    def solve(self, point: Point) -> tuple[Point, list[SolveReport]]:
        """Iterate until every strength meets the stopping rule, stalls, or is out of steps."""
        began = time.perf_counter()
        passes, products = self.problem.passes, self.problem.curvature_passes
        progress = _Progress(self.mu_S, self.problem.rounding)
        reach_S = torch.full_like(self.mu_S, self.preconditioner.reach)
        taken = 0
        for step in range(STEP_LIMIT + 1):
            penalty_S = self._penalty(point)
            objective_S = point.loss_S + penalty_S
            slope = self._slope(point, objective_S)
            allowed_S = self.tol * objective_S
            expected_S = torch.inf if self.exact else SAFETY * slope.model_S * reach_S
            distance_S = slope.gap_S.clamp_max(expected_S)
            close_S = CLOSE * self.tol * penalty_S.maximum(SMALL_PENALTY * objective_S)
            certified_S = slope.gap_S <= allowed_S
            stalled_S = progress.stalled(objective_S, slope.gap_S)
            finished_S = certified_S & (distance_S <= close_S) | stalled_S
            if finished_S.all() or step == STEP_LIMIT:
                break
            if self.preconditioner.take_support_rows(point, self.mu_S, products=taken):
                slope = self._rescaled(slope, point)
            solution = self._direction(point, slope, allowed_S, close_S, frozen_S=finished_S)
            reach_S, taken = torch.where(finished_S, reach_S, solution.reach_S), solution.products
            point = self._advance(point, objective_S, slope, solution.direction_SKR)
        products = self.problem.curvature_passes - products
        self.preconditioner.reach = float(reach_S.max())
        status = [
            "certified" if certified else "stalled" if stalled else "step_limit"
            for certified, stalled in zip(certified_S.tolist(), stalled_S.tolist(), strict=True)
        ]
        reports = [
            SolveReport(
                status=status[s],
                steps=step,
                passes=self.problem.passes - passes,
                curvature_passes=products,
                objective=float(objective_S[s]),
                gradient_norm=float(slope.gradient_SKR[s].double().norm()),
                gap=float(slope.gap_S[s]),
                seconds=(time.perf_counter() - began) / len(status),
                precision=self.problem.precision,
            )
            for s in range(len(status))
        ]
        return point, reports

    def _penalty(self, point: Point) -> Tensor:
        return self.mu_S / 2 * self._square(point.weight_SKR)

    def _square(self, values_SKR: Tensor) -> Tensor:
        """Squared norm of each strength's, float64, the bias left out."""
        return values_SKR.square().sum(1).double() @ self.problem.penalised_R.double()

    def _slope(self, point: Point, objective_S: Tensor) -> _Slope:
        """The gradient, of smooth losses once the bias has moved to its best; the gap at the repaired dual point."""
        wanted = float((2 * self.mu_S * self.tol * objective_S).sqrt().min())
        found = self.problem.gradients(point, wanted)
        gradient = self._penalised(found.step_SKR, point)
        dual = gradient if found.dual_SKR is found.step_SKR else self._penalised(found.dual_SKR, point)
        precondition = self._preconditioned(point)
        scaled = precondition(gradient)
        return _Slope(
            gradient_SKR=gradient,
            precondition=precondition,
            scaled_SKR=scaled,
            shift_SK=found.repair.shift_SK,
            gap_S=self._square(dual.double()) / (2 * self.mu_S) + found.repair.excess_S,  # float32 squares underflow
            model_S=((gradient * scaled).sum((1, 2)) + found.repair.excess_S) / 2,
        )

    def _penalised(self, gradient_SKR: Tensor, point: Point) -> Tensor:
        """With the penalty's, spread, in what conjugate gradients work in: the two cancel before they are rounded."""
        whole_SKR = torch.addcmul(gradient_SKR, self.mu_SKR, point.weight_SKR).to(self.preconditioner.dtype)
        return spread(self.problem.loss, whole_SKR)

    def _preconditioned(self, point: Point) -> Apply:
        inverse = self.preconditioner.at(point, self.mu_S)
        return lambda residual_SKR: spread(self.problem.loss, inverse(residual_SKR))

    def _rescaled(self, slope: _Slope, point: Point) -> _Slope:
        """By another preconditioner for the same point."""
        precondition = self._preconditioned(point)
        scaled_SKR = precondition(slope.gradient_SKR)
        return replace(slope, precondition=precondition, scaled_SKR=scaled_SKR)

    def _direction(
        self, point: Point, slope: _Slope, allowed_S: Tensor, close_S: Tensor, *, frozen_S: Tensor
    ) -> Solution:
        """Newton's direction, the bias's own step included; zero where ``frozen_S``."""

        def enough(residual_SKR: Tensor, size_S: Tensor, gained_S: Tensor, first_S: Tensor) -> Tensor:
            gap_S = self._square(residual_SKR) / (2 * self.mu_S)
            distance_S = gap_S if self.exact else torch.minimum(gap_S, SAFETY * torch.maximum(gained_S, size_S) / 2)
            meets_rule_S = (gap_S <= allowed_S) & (distance_S <= close_S)
            if not self.problem.loss.smooth:
                meets_rule_S &= size_S <= A_DIGIT**2 * first_S
            return meets_rule_S | (size_S <= self.problem.loss.forcing**2 * first_S)

        def multiply(direction_SKR: Tensor) -> Tensor:
            product_SKR = self.problem.hessian(point, direction_SKR, exact=exact).to(direction_SKR.dtype)
            return torch.addcmul(product_SKR, self.working_mu_SKR, direction_SKR)

        exact = self.preconditioner.wants_exact_products
        solution = conjugate_gradients(
            multiply, slope.precondition, -slope.gradient_SKR, -slope.scaled_SKR, enough=enough, frozen_S=frozen_S
        )
        direction_SKR = solution.direction_SKR.double()
        direction_SKR[:, :, self.problem.bias_column] += torch.where(frozen_S[:, None], 0.0, slope.shift_SK)
        return replace(solution, direction_SKR=direction_SKR)

    def _advance(self, point: Point, objective_S: Tensor, slope: _Slope, direction_SKR: Tensor) -> Point:
        """Full steps, shortened where the objective has not fallen enough (Armijo, 1e-4) or rises steeply again.

        The squared hinge needs the second part: its Hessian jumps, and a full step may land as far beyond the valley.
        """
        line = self.problem.line(point, direction_SKR)
        # The bias's own share of the slope, -q, is left out: the test is stricter by less than it is worth computing.
        slope_S = (slope.gradient_SKR * direction_SKR).sum((1, 2))
        length_S = torch.ones_like(self.mu_S)
        for _ in range(30):
            reached, there_S = line(length_S)
            allowed_S = objective_S + 1e-4 * length_S * slope_S + 10 * self.problem.rounding * objective_S.abs()
            short_S = reached.loss_S + self._penalty(reached) > allowed_S
            factor_S = torch.full_like(slope_S, 0.4)
            if there_S is not None:
                there_S = there_S + (self.mu_SKR * reached.weight_SKR * direction_SKR).sum((1, 2))
                overshot_S = (there_S > -0.5 * slope_S) & (slope_S < 0)
                factor_S = torch.where(overshot_S, slope_S / (slope_S - there_S), factor_S).clamp(0.1, 0.9)
                short_S |= overshot_S
            if not short_S.any():
                break
            length_S = torch.where(short_S, length_S * factor_S, length_S)
        return reached


class _Progress:
    """Tells when rounding allows no further progress."""

    def __init__(self, mu_S: Tensor, rounding: float) -> None:
        self.rounding = rounding
        self.best_gap_S = self.objective_S = torch.full_like(mu_S, torch.inf)
        self.steps_without_S = torch.zeros_like(mu_S)

    def stalled(self, objective_S: Tensor, gap_S: Tensor) -> Tensor:
        """Note where a step has come to; true after ``STALLED_STEPS`` with neither a smaller gap nor a lower objective.

        No bound at all is not a lack of progress: far from the optimum the bias gradient cannot be repaired yet.
        """
        fell_S = self.objective_S - objective_S > 100 * self.rounding * objective_S
        progressed_S = (gap_S < 0.9 * self.best_gap_S) | gap_S.isinf() | fell_S
        self.steps_without_S = torch.where(progressed_S, 0, self.steps_without_S + 1)
        self.best_gap_S = torch.minimum(self.best_gap_S, gap_S)
        self.objective_S = objective_S
        return self.steps_without_S >= STALLED_STEPS
