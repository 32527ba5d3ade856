"""Starts are made of solutions, and every strength is solved, whatever the order."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from support.probe_cases import Floats, mixture, torch_design
from support.processors import pretend

from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.objective.design import ScoreSpace
from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.losses import LOSSES, Targets
from penultimate.engine.probe.objective.problem import Point
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.preconditioners.choose import PreconditionerChoice
from penultimate.engine.probe.solver import continuation, node_space
from penultimate.engine.probe.solver.continuation import Continuation, intermediate_strengths, lagrange_coefficients
from penultimate.engine.probe.solver.newton import CLOSE
from penultimate.engine.probe.solver.node_space import Node, NodeSpace

# Shapes: N samples, D feature dimensions, K classes, M nodes.

K = 4
PATHS = {
    "one": (1.0,),
    "two": (10.0, 1.0),
    "dense": tuple(np.geomspace(1e2, 1.0, 30)),
    "coarse": (1e4, 1.0, 1e-4),
    "uneven": (100.0, 99.9, 99.8, 3.0, 2.0, 1e-3, 9e-4, 8e-4, 7e-4),
}


def problem_of(samples: int = 240, dims: int = 12) -> InMemoryProblem:
    features_ND, labels_N = mixture(samples, dims, K)
    return InMemoryProblem(
        torch_design(features_ND), LOSSES["softmax"], Targets(torch.from_numpy(labels_N), torch.empty(0, 0))
    )


def nodes_of(problem: InMemoryProblem, strengths: list[float]) -> list[Node]:
    """Draw random weights with a common direction, as those of a path have."""
    generator = torch.Generator().manual_seed(0)
    columns = problem.features.matrix_NR.shape[1]
    common_KR, *own = torch.randn(1 + len(strengths), K, columns, generator=generator, dtype=torch.float64)
    nodes = []
    for strength, own_KR in zip(strengths, own, strict=True):
        weight_KR = 0.3 * (common_KR + 0.3 * own_KR)
        nodes.append(Node(math.log(strength), weight_KR, problem.features.scores(weight_KR)))
    return nodes


def objective(problem: InMemoryProblem, nodes: list[Node], mu: float) -> Callable[[np.ndarray], float]:
    """Return the objective by the coordinates of all nodes but the first, computed from weights alone."""

    def at(coordinates_M: np.ndarray) -> float:
        first, *others = nodes
        weight_KR = first.weight_KR + sum(
            float(a) * (node.weight_KR - first.weight_KR) for a, node in zip(coordinates_M, others, strict=True)
        )
        point = problem.start(weight_KR[None])
        return float(point.loss_S) + mu / 2 * float((weight_KR.square() * problem.penalised_R).sum())

    return at


@pytest.mark.slow
@pytest.mark.parametrize("strengths", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("classes", [2, 30], ids=["several nodes at once", "one node at a time"])
@pytest.mark.parametrize("large", [False, True], ids=["", "too many scores for gaps"])
def test_every_strength_is_solved_and_returned_in_order(
    strengths: tuple[float, ...], classes: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(continuation, "LARGE", 0)
    features_ND, labels_N = mixture(240, 12, classes)
    path = RegularizationPath(l2=strengths)
    together = fit_path(features_ND, labels_N, FitSettings(num_classes=classes, path=path))
    assert [probe.l2 for probe in together] == list(strengths)
    for probe in together:
        (alone,) = fit_path(
            features_ND, labels_N, FitSettings(num_classes=classes, path=RegularizationPath(l2=(probe.l2,)))
        )
        assert probe.report.certified
        bound = probe.report.gap + alone.report.gap + 1e-12
        assert probe.report.objective == pytest.approx(alone.report.objective, rel=0, abs=bound)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("samples", [400, 9000], ids=["float64", "float32"])
def test_a_weak_strength_alone_reaches_the_optimum_of_the_path(loss: str, samples: int) -> None:
    """Newton's method from zero takes long detours on separable data of many classes, or runs out of steps."""
    features_ND, labels_N = mixture(samples, 120, 40, apart=0.7)
    whole = fit_path(
        features_ND, labels_N, FitSettings(num_classes=40, path=RegularizationPath.parse("1e-5:1e5:21"), loss=loss)
    )
    (alone,) = fit_path(
        features_ND, labels_N, FitSettings(num_classes=40, path=RegularizationPath(l2=(1e-5,)), loss=loss)
    )
    assert alone.report.certified
    assert alone.report.objective == pytest.approx(whole[-1].report.objective, rel=2e-6)  # each within 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "logistic"])
@pytest.mark.parametrize("samples", [400, 9000], ids=["float64", "float32"])
def test_products_in_halves_lead_to_the_optimum_of_whole_ones(
    loss: str, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "avx2")
    features_ND, labels_N = mixture(samples, 120, 20, apart=0.7)
    settings = FitSettings(num_classes=20, path=RegularizationPath.parse("1e-4:1e4:17"), loss=loss)
    in_halves = fit_path(features_ND, labels_N, settings)
    monkeypatch.setattr(InMemoryProblem, "products_in_halves", False)
    whole = fit_path(features_ND, labels_N, settings)
    for one, other in zip(in_halves, whole, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-6)  # each within 1e-6


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_halves_of_a_product_are_those_of_its_definition(loss: str, weighted: bool) -> None:
    """The first half has scores and curvature, the second the product, the Hessian of the mean loss by autograd."""
    features_ND, labels_N = mixture(150, 6, K)
    weight_N = (
        torch.arange(1, 151, dtype=torch.float64) / (75 * 151)
        if weighted
        else torch.full((150,), 1 / 150, dtype=torch.float64)
    )
    design = torch_design(features_ND, weight_N if weighted else None)
    one_hot_KN = torch.nn.functional.one_hot(torch.from_numpy(labels_N)).T.double()
    problem = InMemoryProblem(design, LOSSES[loss], Targets(torch.from_numpy(labels_N), 2 * one_hot_KN - 1))
    matrix_NR = design.features.matrix_NR
    generator = torch.Generator().manual_seed(0)
    weight_SKR, direction_SKR = torch.randn(2, 2, K, matrix_NR.shape[1], generator=generator, dtype=torch.float64)
    point = problem.start(weight_SKR)

    def mean_loss(weight_KR: torch.Tensor) -> torch.Tensor:
        scores_KN, index_N = weight_KR @ matrix_NR.T, torch.from_numpy(labels_N)
        if loss == "softmax":
            loss_N = torch.nn.functional.cross_entropy(scores_KN.T, index_N, reduction="none")
        else:
            loss_N = torch.nn.functional.softplus(-(2 * one_hot_KN - 1) * scores_KN, threshold=100).sum(0)
        return (weight_N * loss_N).sum()

    def hessian_times(weight_KR: torch.Tensor, direction_KR: torch.Tensor) -> torch.Tensor:
        at_KR = weight_KR.clone().requires_grad_()
        (gradient_KR,) = torch.autograd.grad(mean_loss(at_KR), at_KR, create_graph=True)
        (product_KR,) = torch.autograd.grad((gradient_KR * direction_KR).sum(), at_KR)
        return product_KR

    wanted_SKR = torch.stack([hessian_times(w, d) for w, d in zip(weight_SKR, direction_SKR, strict=True)])
    for halfway in (True, False):
        found = problem.hessian_halves(point, direction_SKR, halfway=halfway)
        torch.testing.assert_close(found.scores_SKN, direction_SKR @ matrix_NR.T)
        torch.testing.assert_close(found.curvature_S, (direction_SKR * wanted_SKR).sum((1, 2)))
        if halfway:
            assert found.product_SKR is None
        else:
            torch.testing.assert_close(found.product_SKR, wanted_SKR, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("distance", [continuation.BETWEEN, continuation.FAR])
def test_intermediate_strengths_lie_only_in_gaps_and_no_further_apart_than_nodes(distance: float) -> None:
    gaps = [1.0, 0.5, -20.0, -21.0, -24.0]
    points = intermediate_strengths(gaps, highest=10.0, distance=distance)
    assert max(points) == 10.0
    line = sorted([*gaps, *points], reverse=True)
    assert max(a - b for a, b in itertools.pairwise(line) if {a, b} & set(points)) <= distance
    assert max(a - b for a, b in itertools.pairwise(line)) <= continuation.FAR
    assert not [point for point in points if -21.0 <= point <= -20.0 or 0.5 <= point <= 1.0]
    assert intermediate_strengths([9.0, 8.0], highest=10.0, distance=distance) == []
    assert intermediate_strengths([11.0, 10.0], highest=10.0, distance=distance) == []


def test_a_requested_strength_is_expected_to_take_more_products_than_the_intermediate_one_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(continuation, "BLOCK_STRENGTHS", 1)
    monkeypatch.setattr(continuation, "INTERMEDIATE_SLACK", 1)  # so that all of them take products
    factors: list[float] = []

    def renew(choice: PreconditionerChoice, point: Point, mu: float, *, products: float) -> None:
        factors.append(products / path.products if path.products else math.nan)

    monkeypatch.setattr(PreconditionerChoice, "renew", renew)
    path = Continuation(problem_of(), l2=(1e-5, 1e-6), total_weight=240, tol=1e-4)
    assert len(list(path.solve(K))) == 2
    assert len(factors) == len(path.l2) > 5
    assert factors[-2:] == [continuation.TIGHTENED, 1]
    assert {factor for factor in factors[:-2] if not math.isnan(factor)} == {1}


def test_the_cost_of_intermediate_strengths_is_reported_with_the_strength_after_them() -> None:
    problem = problem_of()
    lone = Continuation(problem, l2=(1e2, 1e-2, 1e-5), total_weight=240, tol=1e-4)
    reports = [report for _, _, report in lone.solve(K)]
    assert len(lone.l2) > 3
    assert len(reports) == 3
    assert sum(report.passes for report in reports) == problem.passes
    assert sum(report.curvature_passes for report in reports) == problem.curvature_passes


def mean_loss(loss: str, scores_NK: Floats, labels_N: NDArray[np.int64]) -> float:
    """Return the mean loss by definition."""
    sign_NK = np.where(labels_N[:, None] == np.arange(scores_NK.shape[1]), 1, -1)
    if loss == "softmax":
        return float((np.logaddexp.reduce(scores_NK, axis=1) - scores_NK[np.arange(len(labels_N)), labels_N]).mean())
    if loss == "logistic":
        return float(np.logaddexp(0, -sign_NK * scores_NK).sum(1).mean())
    return float((np.maximum(0, 1 - sign_NK * scores_NK) ** 2).sum(1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_scores_keep_fitting_their_weights_along_a_path(loss: str) -> None:
    """Scores of starts, except under the hinge, do not gather float32 rounding from node to node, as sums would."""
    features_ND, labels_N = mixture(9000, 120, K)
    path = RegularizationPath.spaced(1e-2, 1e3, 57)
    for probe in fit_path(features_ND, labels_N, FitSettings(num_classes=K, path=path, loss=loss)):
        weight_KD = probe.weight_KD.astype(np.float64)
        scores_NK = features_ND.astype(np.float64) @ weight_KD.T + probe.bias_K
        penalty = probe.l2 / 2 * float((weight_KD**2).sum()) / len(labels_N)
        assert mean_loss(loss, scores_NK, labels_N) + penalty == pytest.approx(probe.report.objective, rel=1e-6)


def test_coefficients_are_exact_for_cubics_and_linear_where_a_cubic_would_oscillate() -> None:
    nodes = [-3.0, -1.0, 0.5, 2.0]
    polynomial = np.polynomial.Polynomial([0.3, -1.0, 2.0, 0.7])
    assert np.dot(lagrange_coefficients(nodes, -0.2), polynomial(np.array(nodes))) == pytest.approx(polynomial(-0.2))
    assert lagrange_coefficients([0.0, 0.001, 3.0, 6.0], 2.0) == pytest.approx([0, 1 / 2.999, 1.999 / 2.999, 0])


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("mu", [1e-4, 1e-2])
def test_the_lowest_point_of_the_space_through_nodes_is_that_of_a_general_minimiser(
    count: int, mu: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_space, "MAX_EVALUATIONS", 30)
    problem = problem_of()
    nodes = nodes_of(problem, [0.1 * 3**n for n in range(count)])
    value_at = objective(problem, nodes, mu)
    lowest = NodeSpace(problem, nodes, tol=1e-9).lowest(math.log(mu))
    best = minimize(value_at, np.zeros(count - 1), method="BFGS", options={"gtol": 1e-9})
    assert value_at(np.array(lowest)) == pytest.approx(best.fun, rel=1e-8)


def test_a_last_step_taken_unseen_saves_evaluations_and_ends_as_near_as_the_rule_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, tol = problem_of(), 1e-4
    nodes = nodes_of(problem, [0.1 * 3**n for n in range(4)])
    evaluations: dict[float, list[int]] = {1: [], node_space.LAST_STEP: []}
    monkeypatch.setattr(node_space, "MAX_EVALUATIONS", 30)
    for mu in np.geomspace(1e-5, 1, 11).tolist():
        value_at = objective(problem, nodes, mu)
        best = minimize(value_at, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).fun
        for last_step, counts in evaluations.items():
            monkeypatch.setattr(node_space, "LAST_STEP", last_step)
            space, points = NodeSpace(problem, nodes, tol), list[Sequence[float]]()
            space.evaluate = recorded(space.evaluate, points)
            assert value_at(np.array(space.lowest(math.log(mu)))) - best <= CLOSE * tol * best
            counts.append(len(points))
    until_seen, unseen = (np.array(counts) for counts in evaluations.values())
    assert max(until_seen) < 30
    assert set(until_seen - unseen) == {0, 1}


def recorded(evaluate: ScoreSpace, points: list[Sequence[float]]) -> ScoreSpace:
    """Return the function, which then adds the points that it is called at to a list."""

    def at(coordinates: Sequence[float]) -> tuple[float, torch.Tensor, torch.Tensor]:
        points.append(coordinates)
        return evaluate(coordinates)

    return at


def test_nodes_that_are_alike_are_no_obstacle() -> None:
    problem = problem_of()
    (node,) = nodes_of(problem, [0.1])
    alike = [node, Node(math.log(0.3), node.weight_KR, node.scores_KN), Node(0.0, node.weight_KR, node.scores_KN)]
    lowest = NodeSpace(problem, alike, tol=1e-4).lowest(math.log(0.03))
    assert len(lowest) == 2
    assert np.isfinite(lowest).all()


def test_only_nodes_that_starts_are_made_from_are_kept() -> None:
    problem = problem_of()
    long = Continuation(problem, l2=tuple(np.geomspace(1e3, 1e-3, 200)), total_weight=240, tol=1e-4)
    solved = 0
    for _ in long.solve(K):
        solved += 1
        assert len(long.nodes) <= continuation.SPAN + 2 * continuation.BLOCK_STRENGTHS
    assert solved == 200


def test_strengths_between_nodes_are_the_same_side_by_side_and_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = mixture(900, 40, 30)  # of so many classes that nodes are solved one by one
    settings = FitSettings(num_classes=30, path=RegularizationPath.paper())
    together, widths = fit_path(features_ND, labels_N, settings), list[int]()
    gaps = Continuation._gaps

    def noted(self: Continuation, width: int) -> Iterator[Sequence[int]]:
        for gap in gaps(self, width):
            widths.append(len(gap))
            yield gap

    monkeypatch.setattr(Continuation, "_gaps", noted)
    fit_path(features_ND, labels_N, settings)
    assert 1 < max(widths) <= continuation.BLOCK_STRENGTHS
    widths.clear()
    monkeypatch.setattr(continuation, "FEW", 0)
    alone = fit_path(features_ND, labels_N, settings)
    assert set(widths) == {1}
    for one, other in zip(together, alone, strict=True):
        assert one.report.certified
        assert other.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=1e-5)
