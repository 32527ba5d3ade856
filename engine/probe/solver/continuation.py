"""Chain: the order in which the strengths of a path are solved, and where each of them begins.

Every few strengths one is a node: it begins at the lowest point of the space through the nodes solved before it. The
strengths between nodes begin on the cubic, in the logarithm of l2, through the two nodes on either side. At weak l2
that is nearer to their optimum than the stopping rule asks, so that they take one gradient, for their certificate, and
no step; nodes are then taken further apart. Where the strengths asked for leave too wide a gap, others lead over it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import InMemory, Point
from penultimate.engine.probe.preconditioners.choose import Preconditioner
from penultimate.engine.probe.result import SolveReport
from penultimate.engine.probe.solver.newton import CLOSE, SMALL_PENALTY, Newton

# Shapes: N samples, K classes, S strengths, R columns of the turned design, M nodes but the first.

BLOCK_COLUMNS = 40
"""Strengths are solved side by side up to so many columns of scores: below, a product takes as long with one."""

BLOCK_STRENGTHS = 4
"""And no more than this: the further from the nodes before them, the worse they begin."""

NEAR, FAR = math.log(3.2), 2 * math.log(3.2)
"""Logarithm of l2 from one node to the next, at least and at most: 2 and 4 of the paper's strengths."""

SPAN = 4
"""Nodes that a start is made from, of smooth losses."""

LARGE = 1 << 28
"""From so many scores (N x K) on, 1 GiB a node, a start is made from two nodes, and every strength is one."""

DESCENTS = 3
"""Points of the space through nodes that are evaluated to find its lowest."""

STONE_SLACK = 100
"""Stones are solved to so many times the tolerance, 1 taking 1.1 to 1.5 times as long; under the squared hinge to
the tolerance itself: with other support rows left inside the margin, the last strength took 77 steps instead of 2."""

RESOLVED = 1e-7
"""Directions of that space with less than this share of the largest curvature are left out: float32 sums hide them."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A solved strength."""

    log_mu: float
    weight_KR: Tensor
    scores_KN: Tensor


class Chain:
    """One path, l2 falling; ``solve`` is the recipe."""

    def __init__(self, problem: InMemory, *, l2: Sequence[float], total_weight: float, tol: float) -> None:
        self.problem, self.asked, self.total_weight, self.tol = problem, l2, total_weight, tol
        self.preconditioner = Preconditioner(problem)
        self.products = 0.0
        """Hessian products of the last nodes."""

        self.l2: list[float] = []
        self.log_mus: list[float] = []
        """Strengths and stones, strongest first, and the logarithms of l2 over the sum of weights."""

        self.waiting: dict[int, int] = {}
        """Strengths that were asked for and are not solved: their place among all, and in the path."""

        self.nodes: dict[int, _Node] = {}
        self.span = SPAN
        """Nodes that the next start is made from."""

        self.unreported: list[Sequence[SolveReport]] = []
        """Blocks since the last strength that was asked for."""

        self.reported = 0.0, 0
        """Passes and Hessian products up to there."""

    def solve(self, classes: int) -> Iterator[tuple[int, Tensor, SolveReport]]:
        """Place in the path, turned weights (K, R) and report of each strength."""
        columns = len(self.problem.scale_R)
        first = self.problem.start(self.problem.scale_R.new_zeros(1, classes, columns, dtype=torch.float64))
        assert first.scores_SKN is not None
        self._lay(first)
        width = min(BLOCK_STRENGTHS, max(1, BLOCK_COLUMNS // classes))
        large, smooth = first.scores_SKN.numel() >= LARGE, self.problem.loss.smooth
        # Under the squared hinge each strength is a node and begins at the one before it, whose support rows it keeps.
        self.span = 1 if not smooth else 2 if large else SPAN
        reach = NEAR if smooth and not large else 0.0
        yield from self._solve_nodes([0], first)
        while self.waiting:
            if places := self._next_nodes(width, reach):
                yield from self._solve_nodes(places, self._beyond(places))
            for gap in self._gaps(width):
                solved = list(self._solve(gap, self._between(gap)))
                reach = NEAR if any(report.steps for _, _, report in solved) else FAR
                yield from solved
            for place in sorted(self.nodes)[: -self.span - width + 1]:
                del self.nodes[place]

    def _lay(self, zero: Point) -> None:
        """Put the strengths in order, with stones before the first that is weak and wherever two are far apart.

        A stone is a strength that nobody asked for. Solved from zero, l2 = 1 of Caltech-101 took 5,945 Hessian products
        and l2 = 1e-5 was not certified after 200 steps; over stones they take 44 and 80. Zero is near the optimum where
        l2/N is at least the Hessian's largest eigenvalue there.
        """
        asked = [math.log(value / self.total_weight) for value in self.asked]
        variance = float((self.problem.scale_R * self.problem.penalised_R).max())
        steepest = max(variance * float(zero.moments.curvature_SK.max()), 1e-300)
        stones = _stones(asked, highest=math.log(steepest))
        laid = sorted(
            [*((value, at) for at, value in enumerate(asked)), *((stone, -1) for stone in stones)], reverse=True
        )
        self.log_mus = [log_mu for log_mu, _ in laid]
        self.l2 = [self.asked[at] if at >= 0 else math.exp(log_mu) * self.total_weight for log_mu, at in laid]
        self.waiting = {place: at for place, (_, at) in enumerate(laid) if at >= 0}

    def _next_nodes(self, width: int, reach: float) -> list[int]:
        """The next nodes, each as far from the one before it as ``reach`` allows; the last strength is one."""
        places = [max(self.nodes)]
        while len(places) <= width and (last := places[-1]) < len(self.l2) - 1:
            within = [p for p in range(last + 1, len(self.l2)) if self.log_mus[last] - self.log_mus[p] <= reach]
            places.append(max(within, default=last + 1))
        return places[1:]

    def _solve_nodes(self, places: Sequence[int], start: Point) -> Iterator[tuple[int, Tensor, SolveReport]]:
        middle = sum(self.log_mus[place] for place in places) / len(places)
        self.preconditioner.renew(start, math.exp(middle), products=self.products)
        return self._solve(places, start, nodes=True)

    def _solve(
        self, places: Sequence[int], start: Point, *, nodes: bool = False
    ) -> Iterator[tuple[int, Tensor, SolveReport]]:
        """Solve these strengths side by side; those that were asked for come out."""
        l2_S = torch.tensor([self.l2[place] for place in places], dtype=torch.float64, device=start.weight_SKR.device)
        asked = [(s, place) for s, place in enumerate(places) if place in self.waiting]
        tol = self.tol if asked or not self.problem.loss.smooth else STONE_SLACK * self.tol
        newton = Newton(self.problem, self.preconditioner, l2_S=l2_S, total_weight=self.total_weight, tol=tol)
        point, reports = newton.solve(start)
        assert point.scores_SKN is not None
        if nodes:
            self.products = reports[0].curvature_passes
            for s, place in enumerate(places):
                self.nodes[place] = _Node(self.log_mus[place], point.weight_SKR[s], point.scores_SKN[s])
        self.unreported.append(reports)
        if not asked:
            return
        steps = sum(block[0].steps for block in self.unreported)
        seconds = sum(report.seconds for block in self.unreported for report in block) / len(asked)
        passes, products = self.problem.passes - self.reported[0], self.problem.curvature_passes - self.reported[1]
        self.unreported, self.reported = [], (self.problem.passes, self.problem.curvature_passes)
        for s, place in asked:
            report = replace(reports[s], steps=steps, seconds=seconds, passes=passes, curvature_passes=products)
            yield self.waiting.pop(place), point.weight_SKR[s], report

    def _gaps(self, width: int) -> Iterator[Sequence[int]]:
        """Strengths between nodes, in blocks; those after the last node but one only when no node is to come."""
        nodes = sorted(self.nodes)
        end = nodes[-1] if nodes[-1] == len(self.l2) - 1 else nodes[max(0, len(nodes) - 2)]
        waiting = sorted(place for place in self.waiting if place < end)
        for first in range(0, len(waiting), width):
            yield waiting[first : first + width]

    def _between(self, places: Sequence[int]) -> Point:
        """On the cubic through two nodes on either side; at an end of the path through more on the other, or fewer."""
        some = next(iter(self.nodes.values()))
        weight_SKR = some.weight_KR.new_zeros(len(places), *some.weight_KR.shape)
        scores_SKN = some.scores_KN.new_zeros(len(places), *some.scores_KN.shape)
        for place, weight_KR, scores_KN in zip(places, weight_SKR, scores_SKN, strict=True):
            after = sorted(n for n in self.nodes if n > place)[: SPAN // 2]
            before = sorted(n for n in self.nodes if n < place)[len(after) - SPAN :]
            nodes = [self.nodes[n] for n in (*before, *after)]
            shares = _cubic([node.log_mu for node in nodes], self.log_mus[place])
            for node, share in zip(nodes, shares, strict=True):
                weight_KR.add_(node.weight_KR, alpha=share)
                scores_KN.add_(node.scores_KN, alpha=share)
        return self.problem.at(weight_SKR, scores_SKN)

    def _beyond(self, places: Sequence[int]) -> Point:
        """At the lowest points of the space through the last nodes."""
        first, *others = [self.nodes[n] for n in sorted(self.nodes, reverse=True)[: self.span]]
        step_SKR = first.weight_KR.new_zeros(len(places), *first.weight_KR.shape)
        if others:
            space = _Space(self.problem, [first, *others], self.tol)
            for step_KR, place in zip(step_SKR, places, strict=True):
                for node, share in zip(others, space.lowest(self.log_mus[place]), strict=True):
                    step_KR.add_(node.weight_KR - first.weight_KR, alpha=share)
        # Not the sum of scores: shares come to 4 to 90, and by as much would rounding grow from node to node.
        return self.problem.step(first.weight_KR, first.scores_KN, step_SKR)


def _cubic(log_mus: Sequence[float], at: float) -> list[float]:
    """Shares of the nodes in the polynomial through them (Lagrange's form); linear where it would swing."""
    shares = [math.prod((at - b) / (a - b) for b in log_mus if b != a) for a in log_mus]
    if sum(map(abs, shares)) <= 2:
        return shares
    above = min(a for a in log_mus if a > at)
    below = max(a for a in log_mus if a < at)
    share = {above: (at - below) / (above - below), below: (above - at) / (above - below)}
    return [share.get(a, 0.0) for a in log_mus]


def _stones(log_mus: Sequence[float], highest: float) -> list[float]:
    """Points no further than ``NEAR`` apart where ``log_mus``, which fall from ``highest``, leave more than ``FAR``."""
    stones = [highest] if highest - log_mus[0] > FAR else []
    for above, below in zip([highest, *log_mus], log_mus, strict=False):
        if above - below > FAR:
            count = math.ceil((above - below) / NEAR)
            stones += [above + (below - above) * n / count for n in range(1, count)]
    return stones


class _Space:
    """The weights ``first + sum_m a_m (other_m - first)`` and the objective on them, by the coordinates ``a``."""

    def __init__(self, problem: InMemory, nodes: Sequence[_Node], tol: float) -> None:
        self.tol = tol
        self.log_mus = [node.log_mu for node in nodes]
        first, *others = nodes
        self.look = problem.space(first.scores_KN, [node.scores_KN for node in others])
        weight_MKR = torch.stack([node.weight_KR for node in nodes])
        weight_MKR[1:] -= weight_MKR[0]
        weight_MKR[:, :, problem.bias_column] = 0
        weight_MX = weight_MKR.flatten(1)
        gram_MM = (weight_MX @ weight_MX.T).cpu()
        self.square, self.pull_M, self.gram_MM = float(gram_MM[0, 0]), gram_MM[0, 1:], gram_MM[1:, 1:]

    def lowest(self, log_mu: float) -> list[float]:
        """Coordinates of the lowest point, by Newton's method from the line through the first two."""
        mu = math.exp(log_mu)
        point_M = torch.zeros_like(self.pull_M)
        point_M[0] = (log_mu - self.log_mus[0]) / (self.log_mus[1] - self.log_mus[0])
        lowest, best_M, step_M = math.inf, torch.zeros_like(point_M), point_M
        for _ in range(DESCENTS):
            loss, slope_M, bend_MM = self.look(point_M.tolist())
            penalty = mu / 2 * (self.square + float(2 * self.pull_M @ point_M + point_M @ self.gram_MM @ point_M))
            objective = loss + penalty
            if objective < lowest:
                lowest, best_M = objective, point_M
                slope_M = slope_M + mu * (self.pull_M + self.gram_MM @ point_M)
                step_M = -_solve(bend_MM + mu * self.gram_MM, slope_M)
                if -float(slope_M @ step_M) / 2 <= CLOSE * self.tol * max(penalty, SMALL_PENALTY * objective):
                    break
            else:
                step_M = step_M / 4
            point_M = best_M + step_M
        coordinates: list[float] = point_M.tolist()
        return coordinates


def _solve(matrix_MM: Tensor, rhs_M: Tensor) -> Tensor:
    """Least squares, the matrix scaled to a unit diagonal: nodes may be alike, and at very different distances."""
    root_M = matrix_MM.diagonal().clamp_min(1e-300).sqrt()
    unit_MM = matrix_MM / root_M[:, None] / root_M[None, :]
    inverse_MM = torch.linalg.pinv((unit_MM + unit_MM.T) / 2, rtol=RESOLVED, hermitian=True)
    solution_M: Tensor = inverse_MM @ (rhs_M / root_M) / root_M
    return solution_M
