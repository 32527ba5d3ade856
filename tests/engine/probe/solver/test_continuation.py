"""Starts made of solutions: what they are made of, and that whatever the order, every strength is solved."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from support.probe_cases import Floats, mixture

from penultimate.engine.probe.fit import fit_path
from penultimate.engine.probe.objective.design import Design
from penultimate.engine.probe.objective.in_memory import InMemory
from penultimate.engine.probe.objective.losses import LOSSES, Targets
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.solver import continuation as chain
from penultimate.engine.probe.solver.continuation import Chain, _cubic, _Node, _Space, _stones

# Shapes: N samples, D feature dimensions, K classes, M nodes.

K = 4
PATHS = {
    "one": (1.0,),
    "two": (10.0, 1.0),
    "dense": tuple(np.geomspace(1e2, 1.0, 30)),
    "coarse": (1e4, 1.0, 1e-4),
    "uneven": (100.0, 99.9, 99.8, 3.0, 2.0, 1e-3, 9e-4, 8e-4, 7e-4),
}


def problem_of(samples: int = 240, dims: int = 12) -> InMemory:
    features_ND, labels_N = mixture(samples, dims, K)
    design = Design(torch.from_numpy(features_ND).double(), share_N=None, dtype=torch.float64, low=None)
    return InMemory(design, LOSSES["softmax"], Targets(torch.from_numpy(labels_N), torch.empty(0, 0)))


def nodes_of(problem: InMemory, strengths: list[float]) -> list[_Node]:
    """Random weights that share a direction, as those of a path do."""
    generator = torch.Generator().manual_seed(0)
    columns = problem.design.matrix_NR.shape[1]
    common_KR, *own = torch.randn(1 + len(strengths), K, columns, generator=generator, dtype=torch.float64)
    nodes = []
    for strength, own_KR in zip(strengths, own, strict=True):
        weight_KR = 0.3 * (common_KR + 0.3 * own_KR)
        nodes.append(_Node(math.log(strength), weight_KR, problem.design.scores(weight_KR)))
    return nodes


def objective(problem: InMemory, nodes: list[_Node], mu: float) -> Callable[[np.ndarray], float]:
    """Of shares of all nodes but the first, from weights alone."""

    def of(shares_M: np.ndarray) -> float:
        first, *others = nodes
        weight_KR = first.weight_KR + sum(
            float(share) * (node.weight_KR - first.weight_KR) for share, node in zip(shares_M, others, strict=True)
        )
        point = problem.start(weight_KR[None])
        return float(point.loss_S) + mu / 2 * float((weight_KR.square() * problem.penalised_R).sum())

    return of


@pytest.mark.parametrize("strengths", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("classes", [2, 30], ids=["several nodes at once", "one node at a time"])
@pytest.mark.parametrize("large", [False, True], ids=["", "too many scores for gaps"])
def test_every_strength_is_solved_in_its_place(
    strengths: tuple[float, ...], classes: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(chain, "LARGE", 0)
    features_ND, labels_N = mixture(240, 12, classes)
    path = RegularizationPath(l2=strengths)
    together = fit_path(features_ND, labels_N, num_classes=classes, path=path)
    assert [probe.l2 for probe in together] == list(strengths)
    for probe in together:
        (alone,) = fit_path(features_ND, labels_N, num_classes=classes, path=RegularizationPath(l2=(probe.l2,)))
        assert probe.report.certified
        bound = probe.report.gap + alone.report.gap + 1e-12
        assert probe.report.objective == pytest.approx(alone.report.objective, rel=0, abs=bound)


def test_at_weak_l2_strengths_between_nodes_take_no_step() -> None:
    features_ND, labels_N = mixture(9000, 120, 12)
    path = RegularizationPath.spaced(1e-5, 1.0, 33)
    probes = fit_path(features_ND, labels_N, num_classes=12, path=path)
    assert all(probe.report.certified for probe in probes)
    assert sum(probe.report.steps == 0 for probe in probes) >= 16  # 20 when written


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("samples", [400, 9000], ids=["float64", "float32"])
def test_a_weak_strength_alone_is_led_up_to(loss: str, samples: int) -> None:
    """From zero, separable data of many classes take Newton's method long detours, or beyond its limit."""
    features_ND, labels_N = mixture(samples, 120, 40, apart=0.7)
    whole = fit_path(features_ND, labels_N, num_classes=40, path=RegularizationPath.parse("1e-5:1e5:21"), loss=loss)
    (alone,) = fit_path(features_ND, labels_N, num_classes=40, path=RegularizationPath(l2=(1e-5,)), loss=loss)
    assert alone.report.certified
    assert alone.report.objective == pytest.approx(whole[-1].report.objective, rel=2e-6)  # each within 1e-6
    assert alone.report.steps < (100 if loss == "squared_hinge" else 60)  # which takes 3 a stone
    assert alone.report.curvature_passes <= 1.5 * sum(probe.report.curvature_passes for probe in whole)


def test_stones_lie_only_in_gaps_and_no_further_apart_than_nodes() -> None:
    gaps = [1.0, 0.5, -20.0, -21.0, -24.0]
    stones = _stones(gaps, highest=10.0)
    assert max(stones) == 10.0
    line = sorted([*gaps, *stones], reverse=True)
    assert max(a - b for a, b in itertools.pairwise(line)) <= chain.FAR
    assert not [stone for stone in stones if -21.0 <= stone <= -20.0 or 0.5 <= stone <= 1.0]
    assert _stones([9.0, 8.0], highest=10.0) == []
    assert _stones([11.0, 10.0], highest=10.0) == []


def test_what_stones_cost_is_reported_with_the_strength_after_them() -> None:
    problem = problem_of()
    lone = Chain(problem, l2=(1e2, 1e-2, 1e-5), total_weight=240, tol=1e-4)
    reports = [report for _, _, report in lone.solve(K)]
    assert len(lone.l2) > 3
    assert len(reports) == 3
    assert sum(report.passes for report in reports) == problem.passes
    assert sum(report.curvature_passes for report in reports) == problem.curvature_passes


def mean_loss(loss: str, scores_NK: Floats, labels_N: NDArray[np.int64]) -> float:
    """By definition."""
    sign_NK = np.where(labels_N[:, None] == np.arange(scores_NK.shape[1]), 1, -1)
    if loss == "softmax":
        return float((np.logaddexp.reduce(scores_NK, axis=1) - scores_NK[np.arange(len(labels_N)), labels_N]).mean())
    if loss == "logistic":
        return float(np.logaddexp(0, -sign_NK * scores_NK).sum(1).mean())
    return float((np.maximum(0, 1 - sign_NK * scores_NK) ** 2).sum(1).mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_scores_keep_fitting_their_weights_along_a_path(loss: str) -> None:
    """In float32, but for the hinge: summed like weights, scores of starts would gather rounding from node to node."""
    features_ND, labels_N = mixture(9000, 120, K)
    path = RegularizationPath.spaced(1e-2, 1e3, 57)
    for probe in fit_path(features_ND, labels_N, num_classes=K, path=path, loss=loss):
        weight_KD = probe.weight_KD.astype(np.float64)
        scores_NK = features_ND.astype(np.float64) @ weight_KD.T + probe.bias_K
        penalty = probe.l2 / 2 * float((weight_KD**2).sum()) / len(labels_N)
        assert mean_loss(loss, scores_NK, labels_N) + penalty == pytest.approx(probe.report.objective, rel=1e-6)


def test_the_cubic_is_exact_for_polynomials_of_its_degree_and_a_line_where_it_would_swing() -> None:
    places = [-3.0, -1.0, 0.5, 2.0]
    polynomial = np.polynomial.Polynomial([0.3, -1.0, 2.0, 0.7])
    assert np.dot(_cubic(places, -0.2), polynomial(np.array(places))) == pytest.approx(polynomial(-0.2))
    assert _cubic([0.0, 0.001, 3.0, 6.0], 2.0) == pytest.approx([0, 1 / 2.999, 1.999 / 2.999, 0])


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("mu", [1e-4, 1e-2])
def test_the_lowest_point_of_the_space_through_nodes_is_that_of_a_general_minimiser(
    count: int, mu: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "DESCENTS", 30)
    problem = problem_of()
    nodes = nodes_of(problem, [0.1 * 3**n for n in range(count)])
    of = objective(problem, nodes, mu)
    lowest = _Space(problem, nodes, tol=1e-9).lowest(math.log(mu))
    best = minimize(of, np.zeros(count - 1), method="BFGS", options={"gtol": 1e-9})
    assert of(np.array(lowest)) == pytest.approx(best.fun, rel=1e-8)


def test_nodes_that_are_alike_are_no_obstacle() -> None:
    problem = problem_of()
    (node,) = nodes_of(problem, [0.1])
    alike = [node, _Node(math.log(0.3), node.weight_KR, node.scores_KN), _Node(0.0, node.weight_KR, node.scores_KN)]
    lowest = _Space(problem, alike, tol=1e-4).lowest(math.log(0.03))
    assert len(lowest) == 2
    assert np.isfinite(lowest).all()


def test_only_the_nodes_that_starts_are_made_of_are_kept() -> None:
    problem = problem_of()
    long = Chain(problem, l2=tuple(np.geomspace(1e3, 1e-3, 200)), total_weight=240, tol=1e-4)
    solved = 0
    for _ in long.solve(K):
        solved += 1
        assert len(long.nodes) <= chain.SPAN + 2 * chain.BLOCK_STRENGTHS
    assert solved == 200
