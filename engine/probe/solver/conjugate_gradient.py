"""Preconditioned conjugate gradients on a block of systems, with an estimate of the error that remains."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

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

DELAY = 8
"""Number of iterations whose gain estimates the error before them."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Approximate solutions of H x = rhs."""

    direction_SKR: Tensor

    error_ratio_S: Tensor
    """Ratio of the true error to the squared preconditioned residual, float64, >= 1.

    The squared error in H's own norm was at least what the last iterations gained (Hestenes & Stiefel 1952, theorem
    6:3; Strakos & Tichy 2002), and is less now; this is that gain over the squared residual now.
    """

    products: int
    """Number of multiplications by H, each for all systems."""

    reduction: float
    """Factor by which an iteration changed the squared residual, on average, of the slowest system; nan: not found."""


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


def conjugate_gradients(
    multiply: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    rhs_SKR: Tensor,
    scaled_SKR: Tensor,
    *,
    converged: Converged,
    frozen_S: Tensor,
    checks: Checks,
) -> Solution:
    """Solve S systems side by side (Nocedal & Wright 2006, algorithm 5.3); those ``frozen_S`` stay at zero.

    ``scaled_SKR`` is the preconditioned right-hand side.
    """
    residual, search, direction = rhs_SKR.clone(), scaled_SKR.clone(), torch.zeros_like(rhs_SKR)
    size_S = (residual * search).sum((1, 2))
    first_S = size_S.clone()
    gains, reduction = [], math.nan
    for iteration in range(1, MAX_ITERATIONS + 1):
        product = multiply(search)
        curvature_S = (search * product).sum((1, 2))
        usable_S = ~frozen_S & (curvature_S > 0) & (size_S > 0)
        length_S = torch.where(usable_S, size_S / curvature_S, 0.0)
        direction.addcmul_(length_S[:, None, None], search)
        residual.addcmul_(length_S[:, None, None], product, value=-1)
        scaled = precondition(residual)
        next_S = (residual * scaled).sum((1, 2))
        ratio_S = torch.where(usable_S, next_S / size_S, 0.0)
        gains.append(length_S * size_S)
        if checks.due(iteration):
            solved_S = converged(residual, next_S, torch.stack(gains[-DELAY:]).sum(0), first_S) | ~usable_S
            if checks.every == 1:
                if solved_S.all():
                    break
            else:
                reduced = torch.where(frozen_S, 0.0, next_S / first_S).amax()
                found = float(torch.where(solved_S.all(), -reduced, reduced))  # both answers in one wait
                reduction = abs(found) ** (1 / iteration)
                if not found > 0:
                    break
        search = torch.addcmul(scaled, ratio_S[:, None, None], search)
        size_S = next_S
    return Solution(direction, _error_ratio(torch.stack(gains, 1), next_S), len(gains), reduction)


def _error_ratio(gains_SJ: Tensor, size_S: Tensor) -> Tensor:
    """Return what the last ``DELAY`` iterations gained, over the squared residual; at least 1."""
    return (gains_SJ[:, -DELAY:].sum(1) / size_S.clamp_min(1e-300)).clamp_min(1)
