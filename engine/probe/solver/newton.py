"""Preconditioned Newton-CG on a block of strengths: exact gradients, cheap Hessian products, a certified stop.

Takes a problem, strengths and a start; returns weights and a SolveReport for each strength.

The stopping rule, for a tolerance ``tol`` (dimensionless) on the objective F = mean loss + P, P = l2/2N ||W||^2:

    certified gap <= tol * F    and    min(certified gap, 10 * estimated error) <= tol / 100 * max(P, F / 1000)

The gap bounds F minus its optimum (``objective/duality_gap.py``). It is tight at strong l2; at weak l2 it is loose by
orders of magnitude, and the estimate says how far F is expected to be from it: half the squared preconditioned gradient
times the error ratio of the last step (``conjugate_gradient.py``). On small data, which are solved in float64, only the
gap counts. F - F* is at least l2/2N ||W - W*||^2: with the default 1e-4, F is certified to 0.01 %, and W expected
within 0.1 % of its norm. The second part matters at strong l2, where W is small and F hardly depends on it. Where
rounding allows the first part only, the strength is certified all the same.

A step solves H d = -g by preconditioned conjugate gradients (Nocedal & Wright 2006, algorithm 7.1) until the residual
is the loss's ``forcing`` of the first, or until the quadratic model meets the stopping rule. H is multiplied at low
precision: its rounding slows CG a little and cannot move the solution, because gradients come from more exact products.
W is kept in float64 and scores are updated by the product of each step, so that float32 rounding of W, which all
samples would share, never enters the gradient.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from penultimate.engine.probe.objective.problem import Point, Problem, center_over_classes
from penultimate.engine.probe.preconditioners.choose import PreconditionerChoice
from penultimate.engine.probe.preconditioners.diagonal import Preconditioner
from penultimate.engine.probe.result import SolveReport
from penultimate.engine.probe.solver.conjugate_gradient import Checks, Solution, conjugate_gradients

# Shapes: N samples, K classes, S strengths, R columns of the rotated features.

CLOSE = 0.01
"""Fraction of the tolerance that the gap or the estimated error must meet, relative to the penalty."""

SMALL_PENALTY = 1e-3
"""Fraction of the objective below which a penalty counts as that much."""

SAFETY = 10
"""Factor on the estimated error."""

NONSMOOTH_FORCING = 0.1
"""Residual, relative to the first, that CG reaches at least under the squared hinge.

Its gap is mostly the bias's: without this, up to 88 steps.
"""

FORCING_IN_HALVES = 0.2
"""Residual, relative to the first, that CG reaches at most where its products come in halves.

A gradient then costs no more than the half that the last product leaves out, and tells the residual of another point.
"""

MAX_ATTEMPTS = 30
"""Number of lengths of one step that are tried."""

STEP_LIMIT = 200
STALLED_STEPS = 8
"""Number of steps without a smaller gap after which rounding is taken to be the limit."""


@dataclass(frozen=True, slots=True)
class GradientState:
    """The gradient at a point, its bound on the distance to the optimum, and the preconditioner that goes with it."""

    gradient_SKR: Tensor
    precondition: Preconditioner
    scaled_SKR: Tensor
    """The preconditioned gradient."""

    shift_SK: Tensor
    """Newton's step of the biases alone."""

    gap_S: Tensor
    """Certified bound on the objective minus its optimum."""

    model_S: Tensor
    """Half the squared preconditioned gradient: the error, were the preconditioner the Hessian's inverse."""


@dataclass(frozen=True, slots=True)
class _Check:
    """State of each strength under the stopping rule at a point."""

    allowed_S: Tensor
    """Largest gap that certifies."""

    close_S: Tensor
    """Largest gap or estimated error that is close enough."""

    certified_S: Tensor
    stalled_S: Tensor
    finished_S: Tensor


@dataclass(frozen=True, slots=True)
class _Position:
    """A point with its objective."""

    point: Point
    penalty_S: Tensor
    objective_S: Tensor
    hidden: Tensor
    """Whether float32 rounding may hide a gradient as small as the stopping rule asks for, bool, ()."""

    def without_residuals(self) -> "_Position":
        """Return the position without the residuals of its point."""
        return replace(self, point=replace(self.point, residual_SKN=None))


class Newton:
    """Newton's method on one block of strengths."""

    def __init__(
        self, problem: Problem, preconditioner: PreconditionerChoice, *, l2_S: Tensor, total_weight: float, tol: float
    ) -> None:
        self.problem, self.preconditioner, self.tol = problem, preconditioner, tol
        self.exact = problem.rounding < 1e-12
        self.mu_S = l2_S.double() / total_weight
        self.mu_SKR = self.mu_S[:, None, None] * problem.penalised_R
        self.working_mu_SKR = self.mu_SKR.to(preconditioner.dtype)

    def solve(self, point: Point) -> tuple[Point, list[SolveReport]]:
        """Iterate until every strength meets the stopping rule, stalls, or is out of steps.

        The residuals of the point that is returned are not kept.
        """
        began = time.perf_counter()
        passes, products = self.problem.passes, self.problem.curvature_passes
        progress = _Progress(self.mu_S, self.problem.rounding)
        error_ratio_S = torch.full_like(self.mu_S, self.preconditioner.error_ratio)
        products_of_step, solution, finished_S = 0, None, torch.zeros_like(self.mu_S, dtype=torch.bool)
        at = self._position(point)
        del point  # whose residuals a step does not need once its direction is found
        exact = bool(at.hidden)
        for step in range(STEP_LIMIT + 1):
            self.problem.adjust_threads()
            state = self._gradient_state(at, exact=exact)
            if solution is not None:
                error_ratio_S = self._learn(solution, state, finished_S, error_ratio_S)
            check = self._check(at, state, error_ratio_S, progress)
            finished_S = check.finished_S
            if finished_S.all() or step == STEP_LIMIT:
                break
            taken = self.problem.curvature_passes - products
            if self.preconditioner.adapt(at.point, self.mu_S, products=taken, products_of_step=products_of_step):
                state, solution = self._with_new_preconditioner(state, at.point), None
            solution, change_SKN = self._direction(at.point, state, check, solution)
            products_of_step = solution.products
            at = at.without_residuals()
            at, exact = self._advance(at, state, solution.direction_SKR, change_SKN)
        reports, self.preconditioner.error_ratio = self._reports(at, state, check, error_ratio_S)
        seconds = (time.perf_counter() - began) / len(reports)
        costs: dict[str, Any] = {
            "steps": step,
            "passes": self.problem.passes - passes,
            "curvature_passes": self.problem.curvature_passes - products,
            "seconds": seconds,
        }
        return at.without_residuals().point, [replace(report, **costs) for report in reports]

    def certify(self, point: Point) -> list[tuple[SolveReport, float]]:
        """Return the report of each strength, and its gap as a multiple of what the stopping rule accepts.

        No step is taken: it costs one gradient, which is not in the reports.
        """
        at = self._position(point)
        state = self._gradient_state(at, exact=bool(at.hidden))
        unknown_S = torch.full_like(self.mu_S, torch.inf)
        check = self._check(at, state, unknown_S, _Progress(self.mu_S, 0.0))
        reports, _ = self._reports(at, state, check, unknown_S)
        return list(zip(reports, (state.gap_S / check.allowed_S.minimum(check.close_S)).tolist(), strict=True))

    def _reports(
        self, at: "_Position", state: GradientState, check: _Check, error_ratio_S: Tensor
    ) -> tuple[list[SolveReport], float]:
        """Return reports without what it cost to get there, and the largest error ratio."""
        norm_S = torch.stack([gradient_KR.double().norm() for gradient_KR in state.gradient_SKR])
        *reported, ratios = torch.stack(
            [check.certified_S, check.stalled_S, at.objective_S, norm_S, state.gap_S, error_ratio_S]
        ).tolist()  # all numbers at once: each alone is a wait for a GPU
        reports = [
            SolveReport(
                status="certified" if certified else "stalled" if stalled else "step_limit",
                steps=0,
                passes=0.0,
                curvature_passes=0,
                objective=objective,
                gradient_norm=norm,
                gap=gap,
                seconds=0.0,
                precision=self.problem.precision,
            )
            for certified, stalled, objective, norm, gap in zip(*reported, strict=True)
        ]
        return reports, max(ratios)

    def _position(self, point: Point) -> "_Position":
        penalty_S = self._penalty(point)
        objective_S = point.loss_S + penalty_S
        resolution = (2 * self.mu_S * self.tol * objective_S).sqrt().min()
        return _Position(point, penalty_S, objective_S, self.problem.rounding_error(point) > resolution)

    def _check(self, at: "_Position", state: GradientState, error_ratio_S: Tensor, progress: "_Progress") -> _Check:
        """Apply the stopping rule to every strength."""
        penalty_S, objective_S = at.penalty_S, at.objective_S
        allowed_S = self.tol * objective_S
        expected_S = torch.inf if self.exact else SAFETY * state.model_S * error_ratio_S
        error_S = state.gap_S.clamp_max(expected_S)
        close_S = CLOSE * self.tol * penalty_S.maximum(SMALL_PENALTY * objective_S)
        certified_S = state.gap_S <= allowed_S
        stalled_S = progress.stalled(objective_S, state.gap_S)
        finished_S = certified_S & (error_S <= close_S) | stalled_S
        return _Check(allowed_S, close_S, certified_S, stalled_S, finished_S)

    def _penalty(self, point: Point) -> Tensor:
        return self.mu_S / 2 * self._square(point.weight_SKR)

    def _square(self, values_SKR: Tensor) -> Tensor:
        """Return the squared norm for each strength, float64, without the bias."""
        return values_SKR.square().sum(1).double() @ self.problem.penalised_R.double()

    def _gradient_state(self, at: _Position, *, exact: bool) -> GradientState:
        """Return the gradient, for smooth losses once the bias has moved to its best; the gap at the dual point."""
        point = at.point
        found = self.problem.gradients(point, exact=exact)
        gradient = self._penalised(found.step_SKR, point)
        dual = gradient if found.dual_SKR is found.step_SKR else self._penalised(found.dual_SKR, point)
        precondition = self._preconditioner(point)
        scaled = precondition(gradient)
        return GradientState(
            gradient_SKR=gradient,
            precondition=precondition,
            scaled_SKR=scaled,
            shift_SK=found.repair.shift_SK,
            gap_S=self._square(dual.double()) / (2 * self.mu_S) + found.repair.excess_S,  # float32 squares underflow
            model_S=((gradient * scaled).sum((1, 2)) + found.repair.excess_S) / 2,
        )

    def _penalised(self, gradient_SKR: Tensor, point: Point) -> Tensor:
        """Add the penalty's gradient, and round to CG's dtype afterwards: the two cancel."""
        whole_SKR = torch.addcmul(gradient_SKR, self.mu_SKR, point.weight_SKR).to(self.preconditioner.dtype)
        return center_over_classes(self.problem.loss, whole_SKR)

    def _preconditioner(self, point: Point) -> Preconditioner:
        inverse = self.preconditioner.at(point, self.mu_S)
        return lambda residual_SKR: center_over_classes(self.problem.loss, inverse(residual_SKR))

    def _with_new_preconditioner(self, state: GradientState, point: Point) -> GradientState:
        precondition = self._preconditioner(point)
        return replace(state, precondition=precondition, scaled_SKR=precondition(state.gradient_SKR))

    def _learn(self, solution: Solution, state: GradientState, finished_S: Tensor, error_ratio_S: Tensor) -> Tensor:
        """Return the error ratios after a step; where CG did not see its last residual, the gradient tells its size."""
        size_S = 2 * state.model_S if solution.size_S is None else solution.size_S
        known = not math.isnan(solution.reduction)
        self.preconditioner.reduction = solution.reduction if known else solution.reduction_to(size_S, finished_S)
        return torch.where(finished_S, error_ratio_S, solution.error_ratio(size_S))

    def _direction(
        self, point: Point, state: GradientState, check: _Check, last: Solution | None
    ) -> tuple[Solution, Tensor | None]:
        """Return Newton's direction, the bias's own step included, and the change of scores by it where that is known.

        It is zero for strengths that are finished.
        """

        def converged(residual_SKR: Tensor, size_S: Tensor, gained_S: Tensor, first_S: Tensor) -> Tensor:
            gap_S = self._square(residual_SKR) / (2 * self.mu_S)
            error_S = gap_S if self.exact else torch.minimum(gap_S, SAFETY * torch.maximum(gained_S, size_S) / 2)
            meets_rule_S = (gap_S <= check.allowed_S) & (error_S <= check.close_S)
            if not self.problem.loss.smooth:
                meets_rule_S &= size_S <= NONSMOOTH_FORCING**2 * first_S
            return meets_rule_S | (size_S <= forcing**2 * first_S)

        exact, frozen_S = self.preconditioner.wants_exact_products, check.finished_S
        strengths, classes, _ = state.gradient_SKR.shape
        forcing = self.problem.loss.forcing
        products = _Products(self.problem, point, self.working_mu_SKR, exact=exact)
        if products.in_halves:
            forcing = max(forcing, FORCING_IN_HALVES)
        solution = conjugate_gradients(
            products,
            state.precondition,
            -state.gradient_SKR,
            -state.scaled_SKR,
            converged=converged,
            frozen_S=frozen_S,
            checks=Checks.planned(
                strengths * classes * self.problem.operations_per_column,
                frozen_S.device,
                forcing=forcing,
                reduction=self.preconditioner.reduction,
            ),
            forcing=forcing,
            reduction=self.preconditioner.reduction,
            unfinished=None if last is None else last.unfinished,
        )
        direction_SKR = solution.direction_SKR.double()
        shift_SK = torch.where(frozen_S[:, None], 0.0, state.shift_SK)
        direction_SKR[:, :, self.problem.bias_column] += shift_SK
        change_SKN = products.change_SKN
        if change_SKN is not None:
            change_SKN += shift_SK[:, :, None]
        return replace(solution, direction_SKR=direction_SKR), change_SKN

    def _advance(
        self, at: _Position, state: GradientState, direction_SKR: Tensor, change_SKN: Tensor | None
    ) -> tuple[_Position, bool]:
        """Take full steps, shortened where the objective has not fallen enough (Armijo, 1e-4) or rises steeply again.

        The squared hinge needs the second part: its Hessian jumps, and a full step may land as far beyond the valley.
        Return the position, and whether its gradients have to be exact.
        """
        line = self.problem.line(at.point, direction_SKR, change_SKN)
        objective_S = at.objective_S
        # The bias's own part of the slope, -q, is left out: the test is stricter by less than it is worth computing.
        slope_S = (state.gradient_SKR * direction_SKR).sum((1, 2))
        length_S = torch.ones_like(self.mu_S)
        attempts = 0
        while True:
            attempts += 1
            there, slope_there_S = line(length_S)
            reached = self._position(there)
            del there
            allowed_S = objective_S + 1e-4 * length_S * slope_S + 10 * self.problem.rounding * objective_S.abs()
            shorten_S = reached.objective_S > allowed_S
            factor_S = torch.full_like(slope_S, 0.4)
            if slope_there_S is not None:
                slope_there_S = slope_there_S + (self.mu_SKR * reached.point.weight_SKR * direction_SKR).sum((1, 2))
                overshot_S = (slope_there_S > -0.5 * slope_S) & (slope_S < 0)
                secant_S = slope_S / (slope_S - slope_there_S)
                factor_S = torch.where(overshot_S, secant_S, factor_S).clamp(0.1, 0.9)
                shorten_S |= overshot_S
            found = int(2 * shorten_S.any() + reached.hidden)  # both answers in one wait for a GPU
            if found < 2 or attempts == MAX_ATTEMPTS:
                return reached, found % 2 == 1
            del reached  # before the next takes as much memory
            length_S = torch.where(shorten_S, length_S * factor_S, length_S)


class _Products:
    """Products with the Hessian of the objective at a point, and the change of scores by what is made of them."""

    def __init__(self, problem: Problem, point: Point, mu_SKR: Tensor, *, exact: bool) -> None:
        self.problem, self.point, self.mu_SKR, self.exact = problem, point, mu_SKR, exact
        self.halves = None if exact else problem.halves
        self.change_SKN: Tensor | None = None
        """Change of scores by the steps that CG has taken so far; None where products do not come in halves."""

        self._scores_SKN: Tensor | None = None

    @property
    def in_halves(self) -> bool:
        """Return whether the curvature along a direction is known halfway to its product."""
        return self.halves is not None

    @property
    def by_system(self) -> bool:
        """Return whether strengths whose direction is zero cost nothing."""
        return self.problem.products_by_strength

    def multiply(self, search_SKR: Tensor, *, halfway: bool) -> tuple[Tensor, Tensor | None]:
        """Return the curvature along a direction, and the product unless it stops ``halfway``."""
        self.problem.adjust_threads()
        if self.halves is None:
            product_SKR = self.problem.hessian_product(self.point, search_SKR, exact=self.exact).to(search_SKR.dtype)
            product_SKR = torch.addcmul(product_SKR, self.mu_SKR, search_SKR)
            return (search_SKR * product_SKR).sum((1, 2)), product_SKR
        half = self.halves(self.point, search_SKR, halfway=halfway)
        self._scores_SKN = half.scores_SKN
        if half.product_SKR is None:
            penalty_S = (self.mu_SKR * search_SKR.square()).sum((1, 2))
            return half.curvature_S.to(penalty_S.dtype) + penalty_S, None
        product_SKR = torch.addcmul(half.product_SKR.to(search_SKR.dtype), self.mu_SKR, search_SKR)
        return (search_SKR * product_SKR).sum((1, 2)), product_SKR

    def advance(self, length_S: Tensor) -> None:
        """Add the change of scores by so much of the last direction."""
        if self._scores_SKN is None:
            return
        length = length_S[:, None, None].to(self._scores_SKN.dtype)
        if self.change_SKN is None:
            self.change_SKN = self._scores_SKN.mul_(length)
        else:
            self.change_SKN.addcmul_(length, self._scores_SKN)


class _Progress:
    """Record of the best gap and objective so far, from which rounding is recognised as the limit."""

    def __init__(self, mu_S: Tensor, rounding: float) -> None:
        self.rounding = rounding
        self.best_gap_S = self.objective_S = torch.full_like(mu_S, torch.inf)
        self.steps_without_S = torch.zeros_like(mu_S)

    def stalled(self, objective_S: Tensor, gap_S: Tensor) -> Tensor:
        """Return whether ``STALLED_STEPS`` brought neither a smaller gap nor a lower objective; called once a step.

        No bound at all is not a lack of progress: far from the optimum the bias gradient cannot be repaired yet.
        """
        fell_S = self.objective_S - objective_S > 100 * self.rounding * objective_S
        progressed_S = (gap_S < 0.9 * self.best_gap_S) | gap_S.isinf() | fell_S
        self.steps_without_S = torch.where(progressed_S, 0, self.steps_without_S + 1)
        self.best_gap_S = torch.minimum(self.best_gap_S, gap_S)
        self.objective_S = objective_S
        return self.steps_without_S >= STALLED_STEPS
