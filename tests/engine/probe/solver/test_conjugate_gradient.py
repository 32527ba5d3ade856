"""Conjugate gradients on a known matrix: a product that is left out, and a solution that goes on, change nothing."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from penultimate.engine.probe.solver.conjugate_gradient import RESTART, Checks, Solution, conjugate_gradients

# Shapes: S systems, K x R the shape of an unknown, Z = K x R numbers.

SHAPE = 2, 3, 4
REDUCTION = 1e-9
"""Reduction of the squared residual that makes the next iteration the last, whatever comes."""


@dataclass
class Matrix:
    """Products with dense matrices, in halves or not, and the directions that were gone."""

    matrix_SZZ: Tensor
    in_halves: bool
    by_system: bool = False
    products: int = 0
    multiplied_S: Tensor = field(default_factory=lambda: torch.zeros(SHAPE[0], dtype=torch.int64))
    """Number of products with a direction that is not zero."""

    gone_SKR: Tensor = field(default_factory=lambda: torch.zeros(SHAPE, dtype=torch.float64))

    def multiply(self, search_SKR: Tensor, *, halfway: bool) -> tuple[Tensor, Tensor | None]:
        self.search_SKR = search_SKR
        self.multiplied_S = self.multiplied_S + search_SKR.flatten(1).any(1)
        product_SKR = (self.matrix_SZZ @ search_SKR.flatten(1)[..., None]).view_as(search_SKR)
        self.products += not halfway
        return (search_SKR * product_SKR).sum((1, 2)), None if halfway else product_SKR

    def advance(self, length_S: Tensor) -> None:
        self.gone_SKR = self.gone_SKR + length_S[:, None, None] * self.search_SKR


def system() -> tuple[Tensor, Tensor]:
    """Draw positive definite matrices (S, Z, Z) and right-hand sides (S, K, R)."""
    generator = torch.Generator().manual_seed(0)
    size = SHAPE[1] * SHAPE[2]
    half_SZZ = torch.randn(SHAPE[0], size, size, generator=generator, dtype=torch.float64)
    return half_SZZ @ half_SZZ.mT + torch.eye(size), torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def solve(
    matrix: Matrix, rhs_SKR: Tensor, *, iterations: int, reduction: float = math.nan, last: Solution | None = None
) -> Solution:
    """Solve without a preconditioner until so many iterations are done."""
    done = [0]

    def converged(residual_SKR: Tensor, size_S: Tensor, gained_S: Tensor, first_S: Tensor) -> Tensor:
        done[0] += 1
        return torch.full_like(size_S, done[0] >= iterations, dtype=torch.bool)

    return conjugate_gradients(
        matrix,
        lambda residual_SKR: residual_SKR,
        rhs_SKR,
        rhs_SKR,
        converged=converged,
        frozen_S=torch.zeros(SHAPE[0], dtype=torch.bool),
        checks=Checks(),
        forcing=1e-3,
        reduction=reduction,
        unfinished=None if last is None else last.unfinished,
    )


def test_a_left_out_product_does_not_change_the_direction() -> None:
    matrix_SZZ, rhs_SKR = system()
    whole, halved = Matrix(matrix_SZZ, in_halves=False), Matrix(matrix_SZZ, in_halves=True)
    wanted = solve(whole, rhs_SKR, iterations=1, reduction=REDUCTION)
    found = solve(halved, rhs_SKR, iterations=1, reduction=REDUCTION)
    torch.testing.assert_close(found.direction_SKR, wanted.direction_SKR)
    torch.testing.assert_close(halved.gone_SKR, found.direction_SKR)
    assert (whole.products, halved.products) == (1, 0)
    assert wanted.size_S is not None
    assert found.size_S is None


def test_without_halves_no_product_is_left_out() -> None:
    matrix_SZZ, rhs_SKR = system()
    found = solve(Matrix(matrix_SZZ, in_halves=False), rhs_SKR, iterations=3, reduction=REDUCTION)
    assert found.products == 3
    assert found.unfinished is None


@pytest.mark.parametrize("iterations", [2, 5])
def test_solutions_that_go_on_from_each_other_are_one_solution(iterations: int) -> None:
    """On a quadratic the gradient between them is the residual, and all directions stay conjugate."""
    matrix_SZZ, rhs_SKR = system()
    wanted = solve(Matrix(matrix_SZZ, in_halves=False), rhs_SKR, iterations=iterations)
    matrix, last, total_SKR = Matrix(matrix_SZZ, in_halves=True), None, torch.zeros_like(rhs_SKR)
    for _ in range(iterations):
        residual_SKR = rhs_SKR - (matrix_SZZ @ total_SKR.flatten(1)[..., None]).view_as(rhs_SKR)
        last = solve(matrix, residual_SKR, iterations=1, reduction=REDUCTION, last=last)
        total_SKR = total_SKR + last.direction_SKR
    torch.testing.assert_close(total_SKR, wanted.direction_SKR, rtol=1e-8, atol=1e-10)
    assert matrix.products == 0


def test_a_solution_that_goes_on_from_one_of_another_gradient_converges_all_the_same() -> None:
    """Its first direction is none of conjugate gradients': never begun anew, 80 iterations left 0.05 of it."""
    _, rhs_SKR = system()
    matrix_SZZ = torch.diag(torch.logspace(0, 4, SHAPE[1] * SHAPE[2], dtype=torch.float64)).expand(SHAPE[0], -1, -1)
    noise_SKR = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    last = solve(Matrix(matrix_SZZ, in_halves=True), rhs_SKR + 2 * noise_SKR, iterations=1, reduction=REDUCTION)
    assert last.unfinished is not None
    found = solve(Matrix(matrix_SZZ, in_halves=False), rhs_SKR, iterations=RESTART + 21, last=last)
    reached_SKR = (matrix_SZZ @ found.direction_SKR.flatten(1)[..., None]).view_as(rhs_SKR)
    torch.testing.assert_close(reached_SKR, rhs_SKR, rtol=0, atol=1e-6)


def test_a_solved_system_is_multiplied_no_more_where_products_go_by_system() -> None:
    """The first matrix is nearly the identity: one product solves it, and its gain stays that of its own iterations."""
    matrix_SZZ, rhs_SKR = system()
    size = SHAPE[1] * SHAPE[2]
    matrix_SZZ[0] = torch.diag(1 + 1e-11 * torch.arange(size, dtype=torch.float64))
    found = {}
    for by_system in (True, False):
        matrix = Matrix(matrix_SZZ, in_halves=False, by_system=by_system)
        solution = conjugate_gradients(
            matrix,
            lambda residual_SKR: residual_SKR,
            rhs_SKR,
            rhs_SKR,
            converged=lambda residual_SKR, size_S, gained_S, first_S: size_S <= 1e-20 * first_S,
            frozen_S=torch.zeros(SHAPE[0], dtype=torch.bool),
            checks=Checks(),
            forcing=1e-10,
            reduction=math.nan,
        )
        found[by_system] = solution, matrix.multiplied_S.tolist()
    (some, counts), (every, all_counts) = found[True], found[False]
    assert counts[0] == 1
    assert all_counts[0] > 1
    assert counts[1] == all_counts[1] >= size
    torch.testing.assert_close(some.direction_SKR, every.direction_SKR)
    torch.testing.assert_close(some.gained_S[0], rhs_SKR[0].square().sum())
