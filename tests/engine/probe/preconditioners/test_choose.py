"""The three kinds of class blocks against the matrices they stand for."""

import numpy as np
import pytest
import torch
from support.probe_cases import mixture

from penultimate.engine.probe.fit import fit_path
from penultimate.engine.probe.objective.design import Design
from penultimate.engine.probe.objective.in_memory import InMemory, Point
from penultimate.engine.probe.objective.losses import LOSSES, Targets
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.preconditioners import choose as preconditioner
from penultimate.engine.probe.preconditioners.block_diagonal import ClassMatrices
from penultimate.engine.probe.preconditioners.low_rank import CurvedRows
from penultimate.engine.probe.preconditioners.support_vectors import SupportRows

# Shapes: N samples, D feature dimensions, K classes, S strengths, R turned columns, M rows of a class.

MU = 1e-4


def solved_problem(samples: int, dims: int, share_N: torch.Tensor | None = None) -> tuple[InMemory, Point]:
    """Softmax on a mixture in float64, at weights that separate it halfway."""
    features_ND, labels_N = mixture(samples, dims)
    design = Design(torch.from_numpy(features_ND).double(), share_N=share_N, dtype=torch.float64, low=None)
    targets = Targets(torch.from_numpy(labels_N), torch.empty(0, 0))
    problem = InMemory(design, LOSSES["softmax"], targets)
    one_hot_NK = torch.nn.functional.one_hot(torch.from_numpy(labels_N)).double()
    return problem, problem.start(3 * (one_hot_NK - one_hot_NK.mean(0)).T[None] @ design.matrix_NR / samples)


def class_hessian(problem: InMemory, weight_N: torch.Tensor) -> torch.Tensor:
    """sum_i weight_i z_i z_i' + mu, by definition."""
    matrix_NR = problem.design.matrix_NR
    return (matrix_NR * weight_N[:, None]).T @ matrix_NR + MU * torch.diag(problem.penalised_R)


def curvature(problem: InMemory, point: Point) -> torch.Tensor:
    assert point.residual_SKN is not None
    return problem.loss.curvature(point.residual_SKN, problem.targets)[0]


def test_class_matrices_invert_the_blocks() -> None:
    problem, point = solved_problem(120, 10)
    inverse = ClassMatrices(problem, curvature(problem, point), MU)
    residual_SKR = torch.randn(2, 4, problem.design.matrix_NR.shape[1], dtype=torch.float64)
    applied_SKR = inverse(residual_SKR)
    for k, weight_N in enumerate(problem.design.shared(curvature(problem, point))):
        back_SR = applied_SKR[:, k] @ class_hessian(problem, weight_N)
        scale = residual_SKR[:, k].abs().max()  # a ridge of 1e-5 of the diagonal is added
        torch.testing.assert_close(back_SR, residual_SKR[:, k], atol=2e-3 * float(scale), rtol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_curved_rows_invert_a_diagonal_and_their_own_curvature(weighted: bool) -> None:
    share_N = torch.arange(1, 401, dtype=torch.float64) / (200 * 401) if weighted else None
    problem, point = solved_problem(400, 10, share_N)
    inverse = CurvedRows(problem, curvature(problem, point), MU)
    residual_SKR = torch.randn(2, 4, problem.design.matrix_NR.shape[1], dtype=torch.float64)
    applied_SKR = inverse(residual_SKR)
    count = inverse.rows_KMR.shape[1]
    assert count < 400
    for k, weight_N in enumerate(problem.design.shared(curvature(problem, point))):
        top_N = torch.where(weight_N >= weight_N.topk(count)[0][-1], weight_N, 0.0)
        rest = max(float((weight_N - top_N).sum()), 0.01 * float(weight_N.sum()))
        block_RR = class_hessian(problem, top_N) + torch.diag(rest * problem.scale_R)
        torch.testing.assert_close(applied_SKR[:, k] @ block_RR, residual_SKR[:, k], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_support_rows_invert_the_squared_hinge_s_blocks(weighted: bool) -> None:
    """Two strengths far apart; one class has no support row, and then no curvature."""
    problem, point = hinge_problem(weighted=weighted)
    mu_S = torch.tensor([1e-2, 1e-9], dtype=torch.float64)
    inverse = SupportRows(problem, point, mu_S)
    residual_SKR = torch.randn(2, 4, problem.design.matrix_NR.shape[1], dtype=torch.float64)
    applied_SKR = inverse(residual_SKR)
    assert point.residual_SKN is not None
    share_SKN = problem.design.shared(problem.loss.curvature(point.residual_SKN, problem.targets))
    assert (share_SKN > 0).any(2).tolist() == [[True, True, True, False]] * 2
    matrix_NR = problem.design.matrix_NR
    for s, k in [(s, k) for s in range(2) for k in range(4)]:
        block_RR = (matrix_NR * share_SKN[s, k][:, None]).T @ matrix_NR + torch.diag(mu_S[s] * problem.penalised_R)
        block_RR[problem.bias_column, problem.bias_column] += 1e-6 * share_SKN[s, k].sum() if k < 3 else 1.0
        exact_R = torch.linalg.solve(block_RR, residual_SKR[s, k])
        torch.testing.assert_close(applied_SKR[s, k], exact_R, rtol=1e-5, atol=1e-5 * float(exact_R.abs().max()))


def hinge_problem(*, weighted: bool) -> tuple[InMemory, Point]:
    """The squared hinge, most rows outside the margin, and all of them for the last class."""
    features_ND, labels_N = mixture(400, 10)
    share_N = torch.arange(1, 401, dtype=torch.float64) / (200 * 401) if weighted else None
    design = Design(torch.from_numpy(features_ND).double(), share_N=share_N, dtype=torch.float64, low=None)
    sign_KN = torch.where(torch.from_numpy(labels_N) == torch.arange(4)[:, None], 1.0, -1.0).double()
    sign_KN[3] = -1
    problem = InMemory(design, LOSSES["squared_hinge"], Targets(torch.empty(0, dtype=torch.int64), sign_KN))
    weight_SKR = torch.randn(2, 4, design.matrix_NR.shape[1], dtype=torch.float64)
    weight_SKR[:, 3] = 0
    weight_SKR[:, 3, design.bias_column] = -2
    return problem, problem.start(weight_SKR)


def test_the_squared_hinge_s_step_gradient_is_that_of_its_loss() -> None:
    """That at the repaired dual point is another: Newton's method came to a halt on it."""
    problem, point = hinge_problem(weighted=True)
    step_SKR = problem.gradients(point, wanted=0.0).step_SKR
    for place in [(0, 1, 0), (1, 2, 5), (0, 0, problem.bias_column)]:
        ends = []
        for sign in (1, -1):
            weight_SKR = point.weight_SKR.clone()
            weight_SKR[place] += sign * 1e-6
            ends.append(float(problem.start(weight_SKR).loss_S[place[0]]))
        assert float(step_SKR[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_one_row_that_repeats_is_no_obstacle() -> None:
    features_ND, labels_N = mixture(400, 10)
    features_ND[:], labels_N[:200], labels_N[200:] = features_ND[0], 0, 1
    features_ND[0, 0] += 1
    (probe,) = fit_path(features_ND, labels_N, num_classes=4, path=RegularizationPath(l2=(1e-4,)))
    assert probe.report.certified


def test_curved_rows_save_products_at_weak_l2(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, on separate classes of which three images in a hundred are labelled wrongly."""
    generator = np.random.default_rng(0)
    labels_N = generator.integers(20, size=4000)
    features_ND = generator.normal(size=(20, 300))[labels_N] + generator.normal(size=(4000, 300))
    features_ND /= np.sqrt(1 + np.arange(300))
    wrong_N = generator.random(4000) < 0.03
    labels_N[wrong_N] = generator.integers(20, size=wrong_N.sum())

    def products() -> float:
        path = RegularizationPath.spaced(1e-3, 1e1, 9)
        probes = fit_path(features_ND.astype(np.float32), labels_N, num_classes=20, path=path)
        assert all(probe.report.certified for probe in probes)
        return sum(probe.report.curvature_passes for probe in probes)

    with_rows = products()
    monkeypatch.setattr(preconditioner, "FEW", np.inf)
    assert with_rows < 0.75 * products()  # 181 and 359 when written


def test_support_rows_save_products_at_weak_l2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients in float64, on separable classes of which each has few support rows."""
    generator = np.random.default_rng(0)
    labels_N = generator.integers(20, size=3000)
    features_ND = generator.normal(size=(20, 400))[labels_N] + generator.normal(size=(3000, 400))
    features_ND /= 1 + np.arange(400)

    def products() -> float:
        path = RegularizationPath.spaced(1e-3, 1e2, 6)
        probes = fit_path(features_ND.astype(np.float32), labels_N, num_classes=20, path=path, loss="squared_hinge")
        assert all(probe.report.certified for probe in probes)
        return sum(probe.report.curvature_passes for probe in probes)

    with_rows = products()
    monkeypatch.setattr(preconditioner, "LOW_SPEED", np.inf)
    assert with_rows < 0.5 * products()  # 1,036 and 4,776 when written
