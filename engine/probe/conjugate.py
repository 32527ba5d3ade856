"""Preconditioned conjugate gradients on a block of systems, with an estimate of how well they were preconditioned."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Shapes: S systems solved side by side, K classes, R columns.

LIMIT = 250
"""Iterations after which the direction so far is used: it is one of descent whenever CG is stopped."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Approximate solutions of H x = rhs."""

    direction_SKR: Tensor

    smallest_S: Tensor
    """Smallest Ritz value of the preconditioned H, float64: an estimate from above of its smallest eigenvalue."""

    products: int
    """Multiplications by H, each for all systems."""


def conjugate_gradients(
    multiply: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    rhs_SKR: Tensor,
    *,
    enough: Callable[[Tensor, Tensor, Tensor], Tensor],
    frozen_S: Tensor,
) -> Solution:
    """Nocedal & Wright 2006, algorithm 5.3, for each of S systems; those ``frozen_S`` stay at zero.

    ``enough(residual_SKR, size_S, first_S)`` says which systems are solved well enough; ``size_S`` is the squared
    residual in the preconditioner's metric and ``first_S`` what it was at first. The Lanczos matrix whose eigenvalues
    are the Ritz values comes from the step lengths (Golub & Van Loan 2013, section 11.3.5).
    """
    residual, direction = rhs_SKR.clone(), torch.zeros_like(rhs_SKR)
    scaled = precondition(residual)
    search = scaled.clone()
    size_S = (residual * scaled).sum((1, 2))
    first_S = size_S.clone()
    lengths, ratios = [], []
    for _ in range(LIMIT):
        product = multiply(search)
        curvature_S = (search * product).sum((1, 2))
        usable_S = ~frozen_S & (curvature_S > 0) & (size_S > 0)
        length_S = torch.where(usable_S, size_S / curvature_S, 0.0)
        direction += length_S[:, None, None] * search
        residual -= length_S[:, None, None] * product
        scaled = precondition(residual)
        next_S = (residual * scaled).sum((1, 2))
        ratio_S = torch.where(usable_S, next_S / size_S, 0.0)
        lengths.append(length_S)
        ratios.append(ratio_S)
        if (enough(residual, next_S, first_S) | ~usable_S).all():
            break
        search = scaled + ratio_S[:, None, None] * search
        size_S = next_S
    return Solution(direction, _smallest_ritz(torch.stack(lengths, 1), torch.stack(ratios, 1)), len(lengths))


def _smallest_ritz(lengths_SJ: Tensor, ratios_SJ: Tensor) -> Tensor:
    """Smallest eigenvalue of the Lanczos matrix of each system; 1 where there was no step."""
    smallest = []
    for lengths_J, ratios_J in zip(lengths_SJ.cpu(), ratios_SJ.cpu(), strict=True):
        taken = int((lengths_J > 0).sum())
        inverse_J, ratio_J = 1 / lengths_J[:taken], ratios_J[: max(taken - 1, 0)]
        diagonal = inverse_J.clone()
        diagonal[1:] += ratio_J * inverse_J[:-1]
        beside = ratio_J.sqrt() * inverse_J[:-1]
        matrix = (
            torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1) if taken > 1 else diagonal[:, None]
        )
        smallest.append(float(torch.linalg.eigvalsh(matrix)[0]) if taken else 1.0)
    return torch.tensor(smallest, dtype=torch.float64, device=lengths_SJ.device)
