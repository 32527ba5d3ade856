"""The preconditioners are inverses of their matrices, and each is chosen where it pays."""

import math

import pytest
import torch
from support.probe_cases import mixture, torch_design

from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.objective import torch_design as torch_design_module
from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.losses import LOSSES, Targets
from penultimate.engine.probe.objective.problem import Point
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.preconditioners import choose
from penultimate.engine.probe.preconditioners.block_diagonal import BlockDiagonal
from penultimate.engine.probe.preconditioners.choose import MIN_DEAR_PRODUCTS, PreconditionerChoice
from penultimate.engine.probe.preconditioners.low_rank import LowRank, class_rows
from penultimate.engine.probe.preconditioners.support_vectors import SupportVectors
from penultimate.engine.probe.result import SolveReport
from penultimate.engine.probe.solver.newton import Newton

# Shapes: N samples, D feature dimensions, K classes, S strengths, R rotated columns.

MU = 1e-4


def solved_problem(samples: int, dims: int, weight_N: torch.Tensor | None = None) -> tuple[InMemoryProblem, Point]:
    """Make a softmax problem on a mixture in float64, at weights that separate it halfway."""
    features_ND, labels_N = mixture(samples, dims)
    design = torch_design(features_ND, weight_N)
    targets = Targets(torch.from_numpy(labels_N), torch.empty(0, 0))
    problem = InMemoryProblem(design, LOSSES["softmax"], targets)
    one_hot_NK = torch.nn.functional.one_hot(torch.from_numpy(labels_N)).double()
    return problem, problem.start(3 * (one_hot_NK - one_hot_NK.mean(0)).T[None] @ design.features.matrix_NR / samples)


def class_hessian(problem: InMemoryProblem, weight_N: torch.Tensor) -> torch.Tensor:
    """Return sum_i weight_i z_i z_i' + mu, by definition."""
    matrix_NR = problem.features.matrix_NR
    return (matrix_NR * weight_N[:, None]).T @ matrix_NR + MU * torch.diag(problem.penalised_R)


def residuals(point: Point) -> torch.Tensor:
    assert point.residual_SKN is not None
    return point.residual_SKN[0]


def curvature(problem: InMemoryProblem, point: Point) -> torch.Tensor:
    return problem.loss.curvature(residuals(point)[None], problem.targets)[0]


def test_block_diagonal_inverts_the_blocks() -> None:
    problem, point = solved_problem(120, 10)
    inverse = BlockDiagonal(problem, residuals(point), MU)
    residual_SKR = torch.randn(2, 4, problem.features.matrix_NR.shape[1], dtype=torch.float64)
    applied_SKR = inverse(residual_SKR)
    for k, weight_N in enumerate(problem.features.times_sample_weight(curvature(problem, point))):
        back_SR = applied_SKR[:, k] @ class_hessian(problem, weight_N)
        scale = residual_SKR[:, k].abs().max()  # a ridge of 1e-5 of the diagonal is added
        torch.testing.assert_close(back_SR, residual_SKR[:, k], atol=2e-3 * float(scale), rtol=0)


@pytest.mark.parametrize("classes_at_once", [1, 3, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_low_rank_inverts_a_diagonal_and_the_curvature_of_its_rows(
    weighted: bool, classes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_weight_N = torch.arange(1, 401, dtype=torch.float64) / (200 * 401) if weighted else None
    problem, point = solved_problem(400, 10, sample_weight_N)
    count = class_rows(400, 4, dear=True)
    monkeypatch.setattr(torch_design_module, "CLASSES", classes_at_once)
    monkeypatch.setattr(
        torch_design_module, "READ_TWICE", classes_at_once * count * problem.features.matrix_NR.shape[1]
    )
    LowRank(problem, residuals(problem.start(-point.weight_SKR)), MU)  # whose memory the next one writes to
    inverse = LowRank(problem, residuals(point), MU)
    residual_SKR = torch.randn(2, 4, problem.features.matrix_NR.shape[1], dtype=torch.float64)
    applied_SKR = inverse(residual_SKR)
    assert inverse.inner_KXX.shape[1] == count < 400
    for k, weight_N in enumerate(problem.features.times_sample_weight(curvature(problem, point))):
        top_N = torch.where(weight_N >= weight_N.topk(count)[0][-1], weight_N, 0.0)
        rest = max(float((weight_N - top_N).sum()), 0.01 * float(weight_N.sum()))
        block_RR = class_hessian(problem, top_N) + torch.diag(rest * problem.mean_square_R)
        torch.testing.assert_close(applied_SKR[:, k] @ block_RR, residual_SKR[:, k], atol=1e-6, rtol=1e-6)


def choice_of_low_rank(
    problem: InMemoryProblem, monkeypatch: pytest.MonkeyPatch, *, dear: bool
) -> PreconditionerChoice:
    """Return the choice between the diagonal and low-rank blocks that cost one product."""
    monkeypatch.setattr(BlockDiagonal, "suits", lambda *_: False)
    monkeypatch.setattr(InMemoryProblem, "products_in_halves", dear)
    monkeypatch.setattr(LowRank, "cost", lambda *_: 1.0)
    return PreconditionerChoice(problem)


@pytest.mark.parametrize(
    ("dear", "factor", "enough"), [(True, 4.0, 2.0), (True, 16.0, 0.5), (False, 4.0, 8.0), (False, 16.0, 8.0)]
)
def test_the_diagonal_is_left_sooner_the_further_l2_falls_where_products_are_dear(
    dear: bool, factor: float, enough: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LowRank, "__init__", lambda *_: None)
    problem, point = solved_problem(400, 10)
    for products, renewed in ((enough, False), (enough + 0.25, True)):
        choice = choice_of_low_rank(problem, monkeypatch, dear=dear)
        choice.renew(point, MU, products=0)
        choice.renew(point, MU / factor, products=products)
        assert isinstance(choice.current, LowRank) == renewed


@pytest.mark.parametrize(("dear", "enough"), [(True, 4.0), (False, 8.0)])
def test_low_rank_blocks_are_renewed_sooner_where_products_are_dear(
    dear: bool, enough: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, point = solved_problem(400, 10)
    choice = choice_of_low_rank(problem, monkeypatch, dear=dear)
    choice.renew(point, MU, products=0)
    choice.renew(point, MU, products=9)
    first = choice.current
    assert isinstance(first, LowRank)
    choice.renew(point, MU / 16, products=enough)
    assert choice.current is first
    choice.renew(point, MU / 16, products=enough + 0.5)
    assert choice.current is not first


@pytest.mark.parametrize(("dear", "products", "adapted"), [(True, 4.0, False), (True, 4.5, True), (False, 99.0, False)])
def test_a_solution_leaves_the_diagonal_once_where_products_are_dear(
    dear: bool, products: float, adapted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, point = solved_problem(400, 10)
    choice = choice_of_low_rank(problem, monkeypatch, dear=dear)
    mu_S = torch.tensor([MU], dtype=torch.float64)
    assert choice.adapt(point, mu_S, products=products, products_of_step=1) == adapted
    assert isinstance(choice.current, LowRank) == adapted
    assert not (adapted and choice.adapt(point, mu_S, products=99.0, products_of_step=1))


def test_a_solution_that_leaves_the_diagonal_ends_at_the_same_optimum_with_fewer_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features_ND, labels_N = mixture(1500, 100, 12)
    targets = Targets(torch.from_numpy(labels_N), torch.empty(0, 0))
    problem = InMemoryProblem(torch_design(features_ND), LOSSES["softmax"], targets)
    choices = [choice_of_low_rank(problem, monkeypatch, dear=True) for _ in range(3)]

    def solve(
        choice: PreconditionerChoice, start_SKR: torch.Tensor, mu: float, enough: float
    ) -> tuple[torch.Tensor, SolveReport]:
        monkeypatch.setattr(choose, "MIN_DEAR_PRODUCTS", enough)
        mu_S = torch.tensor([mu], dtype=torch.float64)
        point, reports = Newton(problem, choice, l2_S=mu_S, total_weight=1, tol=1e-4).solve(problem.start(start_SKR))
        return point.weight_SKR, reports[0]

    zero_SKR = torch.zeros(1, 12, problem.features.matrix_NR.shape[1], dtype=torch.float64)
    start_SKR, _ = solve(choices[0], zero_SKR, 1e-3, math.inf)
    _, diagonal = solve(choices[1], start_SKR, 1e-5, math.inf)
    _, adapted = solve(choices[2], start_SKR, 1e-5, MIN_DEAR_PRODUCTS)
    assert [type(choice.current) for choice in choices] == [type(None), type(None), LowRank]
    assert diagonal.certified
    assert adapted.certified
    assert adapted.objective == pytest.approx(diagonal.objective, rel=2e-6)  # each within 1e-6
    assert adapted.curvature_passes < 0.6 * diagonal.curvature_passes


@pytest.mark.parametrize("weighted", [False, True])
def test_support_vectors_invert_the_squared_hinge_s_blocks(weighted: bool) -> None:
    """Two strengths far apart; one class has no support vector, and then no curvature."""
    problem, point = hinge_problem(weighted=weighted)
    mu_S = torch.tensor([1e-2, 1e-9], dtype=torch.float64)
    inverse = SupportVectors(problem, point, mu_S)
    residual_SKR = torch.randn(2, 4, problem.features.matrix_NR.shape[1], dtype=torch.float64)
    applied_SKR = inverse(residual_SKR)
    assert point.residual_SKN is not None
    curvature_SKN = problem.features.times_sample_weight(problem.loss.curvature(point.residual_SKN, problem.targets))
    assert (curvature_SKN > 0).any(2).tolist() == [[True, True, True, False]] * 2
    matrix_NR = problem.features.matrix_NR
    for s, k in [(s, k) for s in range(2) for k in range(4)]:
        block_RR = (matrix_NR * curvature_SKN[s, k][:, None]).T @ matrix_NR + torch.diag(mu_S[s] * problem.penalised_R)
        block_RR[problem.bias_column, problem.bias_column] += 1e-6 * curvature_SKN[s, k].sum() if k < 3 else 1.0
        exact_R = torch.linalg.solve(block_RR, residual_SKR[s, k])
        torch.testing.assert_close(applied_SKR[s, k], exact_R, rtol=1e-5, atol=1e-5 * float(exact_R.abs().max()))


def hinge_problem(*, weighted: bool) -> tuple[InMemoryProblem, Point]:
    """Make a squared hinge problem with most rows outside the margin, and all of them for the last class."""
    features_ND, labels_N = mixture(400, 10)
    sample_weight_N = torch.arange(1, 401, dtype=torch.float64) / (200 * 401) if weighted else None
    design = torch_design(features_ND, sample_weight_N)
    sign_KN = torch.where(torch.from_numpy(labels_N) == torch.arange(4)[:, None], 1.0, -1.0).double()
    sign_KN[3] = -1
    problem = InMemoryProblem(design, LOSSES["squared_hinge"], Targets(torch.empty(0, dtype=torch.int64), sign_KN))
    weight_SKR = torch.randn(2, 4, design.features.matrix_NR.shape[1], dtype=torch.float64)
    weight_SKR[:, 3] = 0
    weight_SKR[:, 3, design.features.bias_column] = -2
    return problem, problem.start(weight_SKR)


def test_the_squared_hinge_s_step_gradient_is_that_of_its_loss() -> None:
    """Newton's method uses the gradient at the point, not at the repaired dual point, on which it came to a halt."""
    problem, point = hinge_problem(weighted=True)
    step_SKR = problem.gradients(point, exact=True).step_SKR
    for index in [(0, 1, 0), (1, 2, 5), (0, 0, problem.bias_column)]:
        ends = []
        for sign in (1, -1):
            weight_SKR = point.weight_SKR.clone()
            weight_SKR[index] += sign * 1e-6
            ends.append(float(problem.start(weight_SKR).loss_S[index[0]]))
        assert float(step_SKR[index]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_one_row_that_repeats_is_no_obstacle() -> None:
    features_ND, labels_N = mixture(400, 10)
    features_ND[:], labels_N[:200], labels_N[200:] = features_ND[0], 0, 1
    features_ND[0, 0] += 1
    (probe,) = fit_path(features_ND, labels_N, FitSettings(num_classes=4, path=RegularizationPath(l2=(1e-4,))))
    assert probe.report.certified
