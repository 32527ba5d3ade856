"""Preconditioned conjugate gradients on a block of systems, with an estimate of the error that remains."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

# Shapes: S systems solved side by side, K classes, R columns, J iterations.

MAX_ITERATIONS = 250
"""Number of iterations after which the direction so far is used: it is one of descent whenever CG is stopped."""

CHECK_EVERY = 10
"""Number of iterations between two looks at convergence on a GPU, for which its host has to wait.

Iterations too many are not lost: they make the direction better.
"""

LONG_PRODUCT = 4e11
"""Number of multiplications and additions of a Hessian product from which convergence is looked at in every iteration
on a GPU as well: a millisecond at 400 TFLOP/s, beside which a wait is nothing and an iteration too many is not."""

LEFT_OUT = 4.0
"""Factor on the squared residual wanted, up to which one that is expected makes an iteration the last.

Stopping early costs nothing where the caller's next gradient takes the place of the product that is left out.
"""

RESTART = 3
"""Number of iterations after which a solution that went on from an unfinished one begins anew at its residual.

Its first direction is not the residual, so that those after it are not conjugate to each other: going on like that, one
node of Caltech-101 took 304 products in six steps, and 20 began anew.
"""

DELAY = 8
"""Number of iterations whose gain estimates the error before them."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The last iteration, whose product was left out: the next solution goes on from it."""

    search_SKR: Tensor
    residual_SKR: Tensor
    """The residual before it."""

    size_S: Tensor
    """The squared preconditioned residual before it."""

    def extend(self, rhs_SKR: Tensor, scaled_SKR: Tensor) -> Tensor:
        """Return the next direction of search for the gradient found meanwhile, -``rhs_SKR`` (Polak & Ribiere 1969)."""
        ratio_S = (scaled_SKR * (rhs_SKR - self.residual_SKR)).sum((1, 2)) / self.size_S
        ratio_S = torch.where(ratio_S > 0, ratio_S, 0.0).nan_to_num(0.0, 0.0)
        return torch.addcmul(scaled_SKR, ratio_S[:, None, None], self.search_SKR)


@dataclass(frozen=True, slots=True)
class Solution:
    """Approximate solutions of H x = rhs."""

    direction_SKR: Tensor

    gained_S: Tensor
    """Reduction of the squared error in H's own norm by the last ``DELAY`` iterations."""

    first_S: Tensor
    """Squared preconditioned residual at first."""

    size_S: Tensor | None
    """Squared preconditioned residual now; None where the last product was left out that would tell."""

    unfinished: Unfinished | None
    """The last iteration where its product was left out, else None."""

    products: int
    """Number of multiplications by H, each for all systems."""

    reduction: float
    """Factor by which an iteration changed the squared residual, on average, of the slowest system; nan: not found."""

    def error_ratio(self, size_S: Tensor) -> Tensor:
        """Return the ratio of the true error to the squared preconditioned residual ``size_S``, >= 1.

        The squared error in H's own norm was at least what the last iterations gained (Hestenes & Stiefel 1952, theorem
        6:3; Strakos & Tichy 2002), and is less now; this is that gain over the squared residual now.
        """
        return (self.gained_S / size_S.clamp_min(1e-300)).clamp_min(1)

    def reduction_to(self, size_S: Tensor, frozen_S: Tensor) -> float:
        """Return what ``reduction`` is if the squared residual is ``size_S`` now."""
        reduced = torch.where(frozen_S, 0.0, size_S / self.first_S.clamp_min(1e-300)).amax()
        return math.pow(float(reduced), 1 / self.products)


@dataclass(frozen=True, slots=True)
class Checks:
    """The iterations after which convergence is looked at."""

    first: int = 1
    every: int = 1

    @classmethod
    def planned(cls, num_operations: float, device: torch.device, *, forcing: float, reduction: float) -> Self:
        """Return those for Hessian products of so many operations: all, but on a GPU with short products few.

        There the first is where the residual will be ``forcing`` of the first, going by the ``reduction`` of the last
        solution.
        """
        if device.type != "cuda" or num_operations >= LONG_PRODUCT:
            return cls()
        if not 0 < reduction < 1:
            return cls(CHECK_EVERY, CHECK_EVERY)
        expected = math.ceil(2 * math.log(forcing) / math.log(reduction))
        return cls(min(max(expected, 1), CHECK_EVERY), CHECK_EVERY)

    def due(self, iteration: int) -> bool:
        """Return whether to look after this iteration, counted from 1."""
        return iteration >= self.first and (iteration - self.first) % self.every == 0


Converged = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A function of (residual_SKR, size_S, gained_S, first_S) that returns the systems solved well enough, (S,) bool.

``size_S`` is the squared preconditioned residual, ``first_S`` what it was at first, ``gained_S`` what the last
``DELAY`` iterations took off the squared error.
"""


class Products(Protocol):
    """Multiplication by H."""

    @property
    def in_halves(self) -> bool:
        """Return whether the curvature along a direction is known halfway to its product, at half of the cost."""
        ...

    @property
    def by_system(self) -> bool:
        """Return whether systems whose direction is zero cost nothing."""
        ...

    def multiply(self, search_SKR: Tensor, *, halfway: bool) -> tuple[Tensor, Tensor | None]:
        """Return the curvature search . H search (S,), and H search unless it stops ``halfway``."""
        ...

    def advance(self, length_S: Tensor) -> None:
        """Note that the directions go on by so much of what was multiplied last."""
        ...


def conjugate_gradients(
    products: Products,
    precondition: Callable[[Tensor], Tensor],
    rhs_SKR: Tensor,
    scaled_SKR: Tensor,
    *,
    converged: Converged,
    frozen_S: Tensor,
    checks: Checks,
    forcing: float,
    reduction: float,
    unfinished: Unfinished | None = None,
) -> Solution:
    """Solve S systems side by side (Nocedal & Wright 2006, algorithm 5.3); those ``frozen_S`` stay at zero.

    ``scaled_SKR`` is the preconditioned right-hand side. Where products go by system, one that is solved stays where it
    is until all are. Where they come in halves, the second half of the last is left out: it would only tell the
    residual, of which the caller's next gradient tells more. The last iteration is the one that is expected to reduce
    residuals to ``forcing`` of the first, going by the one before or, at first, by the ``reduction`` of the last
    solution. The next solution then goes on from the ``unfinished`` one, so that together they are nonlinear conjugate
    gradients (Nocedal & Wright 2006, section 5.2).
    """
    residual, direction = rhs_SKR.clone(), torch.zeros_like(rhs_SKR)
    search = scaled_SKR.clone() if unfinished is None else unfinished.extend(rhs_SKR, scaled_SKR)
    size_S = (residual * scaled_SKR).sum((1, 2))
    first_S, ratio_S = size_S.clone(), torch.full_like(size_S, reduction)
    gains: list[Tensor] = []
    gained_S = torch.zeros_like(size_S)
    found_reduction = math.nan
    for iteration in range(1, MAX_ITERATIONS + 1):
        enough_S = frozen_S | (ratio_S * size_S <= LEFT_OUT * forcing**2 * first_S)
        halfway = products.in_halves and bool(enough_S.all())
        if products.by_system:
            search = torch.where(frozen_S[:, None, None], 0.0, search)
        curvature_S, product = products.multiply(search, halfway=halfway)
        usable_S = ~frozen_S & (curvature_S > 0) & (size_S > 0)
        # As long as all steps were of one quadratic the slope is the size.
        slope_S = size_S if iteration > 1 or unfinished is None else (residual * search).sum((1, 2))
        length_S = torch.where(usable_S, slope_S / curvature_S, 0.0)
        direction.addcmul_(length_S[:, None, None], search)
        products.advance(length_S)
        if product is None:
            gains.append(length_S * size_S)
            last = Unfinished(search, residual, size_S)
            return Solution(direction, torch.stack(gains[-DELAY:]).sum(0), first_S, None, last, iteration, math.nan)
        residual.addcmul_(length_S[:, None, None], product, value=-1)
        scaled = precondition(residual)
        next_S = (residual * scaled).sum((1, 2))
        ratio_S = torch.where(usable_S, next_S / size_S, 0.0)
        gains.append(length_S * size_S)
        if checks.due(iteration):
            gained_S = torch.where(usable_S, torch.stack(gains[-DELAY:]).sum(0), gained_S)
            solved_S = converged(residual, next_S, gained_S, first_S) | ~usable_S
            if checks.every == 1:
                if solved_S.all():
                    break
                if products.by_system:
                    frozen_S = frozen_S | solved_S
            else:
                reduced = torch.where(frozen_S, 0.0, next_S / first_S).amax()
                found = float(torch.where(solved_S.all(), -reduced, reduced))  # both answers in one wait
                found_reduction = abs(found) ** (1 / iteration)
                if not found > 0:
                    break
        begins_anew = unfinished is not None and iteration == RESTART
        search = scaled.clone() if begins_anew else torch.addcmul(scaled, ratio_S[:, None, None], search)
        size_S = next_S
    return Solution(direction, gained_S, first_S, next_S, None, len(gains), found_reduction)
