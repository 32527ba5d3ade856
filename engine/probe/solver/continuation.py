"""Continuation: the order in which the strengths of a path are solved, and where each of them begins.

Every few strengths one is a node: it begins at the lowest point of the space through the nodes solved before it
(``node_space.py``). The strengths between nodes begin on the cubic, in the logarithm of l2, through the two nodes on
either side. At weak l2 that is nearer to their optimum than the stopping rule asks, so that they take one gradient, for
their certificate, and no step; nodes are then taken further apart. Where the requested strengths leave too wide a gap,
intermediate strengths that nobody requested lead over it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.problem import Point
from penultimate.engine.probe.preconditioners.choose import PreconditionerChoice
from penultimate.engine.probe.result import SolveReport
from penultimate.engine.probe.solver.newton import Newton
from penultimate.engine.probe.solver.node_space import Node, NodeSpace

# Shapes: N samples, K classes, S strengths, R columns of the rotated features.

BLOCK_COLUMNS = 40
"""Number of columns of scores up to which strengths are solved side by side: a product takes as long with one."""

BLOCK_STRENGTHS = 4
"""Largest number of strengths side by side: the further from the nodes before them, the worse they begin."""

NEAR, FAR = math.log(3.2), 2 * math.log(3.2)
"""Distance of nodes in the logarithm of l2, at least and at most: 2 and 4 of the paper's strengths."""

BETWEEN = 1.5 * NEAR
"""Distance of intermediate strengths, at most, in the logarithm of l2; ``FAR`` where a guess is near the first ones."""

SPAN = 4
"""Number of nodes that a start is made from, for smooth losses."""

FEW = 1 << 22
"""Number of scores (N x K) up to which strengths between nodes are solved side by side on a CPU, whatever the columns:
most take one gradient alone, and for three strengths of 102 columns that took 21 ms instead of 29."""

LARGE = 1 << 28
"""Number of scores (N x K), 1 GiB a node, from which a start is made from two nodes and every strength is a node."""

INTERMEDIATE_SLACK = 1000
"""Factor on the tolerance of intermediate strengths; without it paths take 1.1 to 1.5 times as long.

Under the squared hinge they are solved to the tolerance itself: with other support vectors left inside the margin, the
last strength took 77 steps instead of 2.
"""

TIGHTENED = 10
"""How many times as many Hessian products a requested node takes as the intermediate one before it, which is solved to
a looser tolerance: on Caltech-101 9 to 15 after 1 to 3.5."""


class Continuation:
    """One path of falling l2."""

    def __init__(
        self,
        problem: InMemoryProblem,
        *,
        l2: Sequence[float],
        total_weight: float,
        tol: float,
        guess: Callable[[float], Tensor] | None = None,
    ) -> None:
        """``guess`` returns weights (K, R) float64 that may be near the solution of a strength; for smooth losses."""
        self.guess = guess
        self.problem, self.requested, self.total_weight, self.tol = problem, l2, total_weight, tol
        self.preconditioner = PreconditionerChoice(problem)
        self.products = 0.0
        """Number of Hessian products of the last nodes."""

        self.loose = False
        """Whether the last node was an intermediate one."""

        self.l2: list[float] = []
        """Requested and intermediate strengths, strongest first."""

        self.log_mus: list[float] = []
        """Logarithms of ``l2`` over the sum of sample weights."""

        self.pending: dict[int, int] = {}
        """Requested strengths that are not solved: index in ``l2`` -> index in the path."""

        self.nodes: dict[int, Node] = {}
        self.span = SPAN
        """Number of nodes that the next start is made from."""

        self.loss_at_zero = math.inf
        self.unreported: list[Sequence[SolveReport]] = []
        """Reports of blocks since the last requested strength."""

        self.reported = 0.0, 0.0
        """Passes and Hessian products up to there."""

    def solve(self, classes: int) -> Iterator[tuple[int, Tensor, SolveReport]]:
        """Yield the index in the path, rotated weights (K, R) and report of each strength."""
        columns = len(self.problem.mean_square_R)
        zero = self.problem.start(self.problem.mean_square_R.new_zeros(1, classes, columns, dtype=torch.float64))
        assert zero.scores_SKN is not None
        self.loss_at_zero = float(zero.loss_S)
        self._schedule(zero)
        width, rows = block_strengths(classes), zero.scores_SKN.shape[2]
        between = BLOCK_STRENGTHS if classes * rows <= FEW and zero.scores_SKN.device.type == "cpu" else width
        large, smooth = is_large(classes, rows), self.problem.loss.smooth
        # Under the squared hinge each strength is a node and begins at the one before, whose support vectors it keeps.
        self.span = 1 if not smooth else 2 if large else SPAN
        distance = NEAR if smooth and not large else 0.0
        start = [zero if self.guess is None else self._guessed(self.guess, zero)]
        del zero
        yield from self._solve_nodes([0], start)
        while self.pending:
            if indices := self._next_nodes(width, distance):
                start = [self._extrapolate(indices)]
                if not distance:  # nothing lies between nodes: the oldest have served
                    self._forget(max(1, self.span - len(indices)))
                yield from self._solve_nodes(indices, start)
            for gap in self._gaps(between):
                solved = list(self._solve(gap, [self._interpolate(gap)]))
                distance = NEAR if any(report.steps for _, _, report in solved) else FAR
                yield from solved
            self._forget(self.span + width - 1)

    def _forget(self, keep: int) -> None:
        """Drop all but the last nodes."""
        for index in sorted(self.nodes)[:-keep]:
            del self.nodes[index]

    def _schedule(self, zero: Point) -> None:
        """Put the strengths in order, with intermediate ones before a weak first one and wherever two are far apart.

        Solved from zero, l2 = 1 of Caltech-101 took 5,945 Hessian products and l2 = 1e-5 was not certified after 200
        steps; over intermediate strengths they take 44 and 80. Zero is near the optimum where l2/N is well above the
        Hessian's largest eigenvalue there: where it was that eigenvalue, the first of them took 194 products, and 2 to
        6 where it is ten times as large.
        """
        requested = [math.log(value / self.total_weight) for value in self.requested]
        variance = float((self.problem.mean_square_R * self.problem.penalised_R).max())
        steepest = max(variance * float(zero.moments.curvature_SK.max()), 1e-300)
        distance = BETWEEN if self.guess is None else FAR
        intermediate = intermediate_strengths(requested, highest=math.log(steepest) + FAR, distance=distance)
        scheduled = sorted(
            [*((value, index) for index, value in enumerate(requested)), *((value, -1) for value in intermediate)],
            reverse=True,
        )
        self.log_mus = [log_mu for log_mu, _ in scheduled]
        self.l2 = [
            self.requested[index] if index >= 0 else math.exp(log_mu) * self.total_weight for log_mu, index in scheduled
        ]
        self.pending = {position: index for position, (_, index) in enumerate(scheduled) if index >= 0}

    def _next_nodes(self, width: int, distance: float) -> list[int]:
        """Return the next nodes, each as far from the one before as ``distance`` allows; the last strength is one."""
        indices = [max(self.nodes)]
        while len(indices) <= width and (last := indices[-1]) < len(self.l2) - 1:
            within = [i for i in range(last + 1, len(self.l2)) if self.log_mus[last] - self.log_mus[i] <= distance]
            indices.append(max(within, default=last + 1))
        return indices[1:]

    def _solve_nodes(self, indices: Sequence[int], start: list[Point]) -> Iterator[tuple[int, Tensor, SolveReport]]:
        middle = sum(self.log_mus[index] for index in indices) / len(indices)
        tightened = self.loose and any(index in self.pending for index in indices)
        products = TIGHTENED * self.products if tightened else self.products
        self.preconditioner.renew(start[0], math.exp(middle), products=products)
        return self._solve(indices, start, nodes=True)

    def _solve(
        self, indices: Sequence[int], start: list[Point], *, nodes: bool = False
    ) -> Iterator[tuple[int, Tensor, SolveReport]]:
        """Solve these strengths side by side and yield those that were requested.

        ``start`` holds one point and is emptied: kept while its successors are found, its scores and residuals would
        take a sixth of the memory of ImageNet's size.
        """
        device = start[0].weight_SKR.device
        l2_S = torch.tensor([self.l2[index] for index in indices], dtype=torch.float64, device=device)
        requested = [(s, index) for s, index in enumerate(indices) if index in self.pending]
        tol = self.tol if requested or not self.problem.loss.smooth else INTERMEDIATE_SLACK * self.tol
        newton = Newton(self.problem, self.preconditioner, l2_S=l2_S, total_weight=self.total_weight, tol=tol)
        point, reports = newton.solve(start.pop())
        assert point.scores_SKN is not None
        if nodes:
            self.products, self.loose = reports[0].curvature_passes, not requested
            for s, index in enumerate(indices):
                self.nodes[index] = Node(self.log_mus[index], point.weight_SKR[s], point.scores_SKN[s])
        self.unreported.append(reports)
        if requested:
            costs = self._costs(len(requested))
            for s, index in requested:
                yield self.pending.pop(index), point.weight_SKR[s], replace(reports[s], **costs)

    def _costs(self, count: int) -> dict[str, Any]:
        """Return what all blocks since the last report took, as fields of the reports of ``count`` strengths."""
        passes, products = self.problem.passes, self.problem.curvature_passes
        costs = {
            "steps": sum(block[0].steps for block in self.unreported),
            "seconds": sum(report.seconds for block in self.unreported for report in block) / count,
            "passes": passes - self.reported[0],
            "curvature_passes": products - self.reported[1],
        }
        self.unreported, self.reported = [], (passes, products)
        return costs

    def _gaps(self, width: int) -> Iterator[Sequence[int]]:
        """Yield strengths between nodes, in blocks; those after the last node but one only when no node is to come."""
        nodes = sorted(self.nodes)
        end = nodes[-1] if nodes[-1] == len(self.l2) - 1 else nodes[max(0, len(nodes) - 2)]
        pending = sorted(index for index in self.pending if index < end)
        for first in range(0, len(pending), width):
            yield pending[first : first + width]

    def _interpolate(self, indices: Sequence[int]) -> Point:
        """Return the point on the cubic through two nodes on either side.

        At an end of the path it goes through more nodes on the other side, or through fewer.
        """
        some = next(iter(self.nodes.values()))
        weight_SKR = some.weight_KR.new_zeros(len(indices), *some.weight_KR.shape)
        scores_SKN = some.scores_KN.new_zeros(len(indices), *some.scores_KN.shape)
        for index, weight_KR, scores_KN in zip(indices, weight_SKR, scores_SKN, strict=True):
            after = sorted(n for n in self.nodes if n > index)[: SPAN // 2]
            before = sorted(n for n in self.nodes if n < index)[len(after) - SPAN :]
            nodes = [self.nodes[n] for n in (*before, *after)]
            coefficients = lagrange_coefficients([node.log_mu for node in nodes], self.log_mus[index])
            for node, coefficient in zip(nodes, coefficients, strict=True):
                weight_KR.add_(node.weight_KR, alpha=coefficient)
                scores_KN.add_(node.scores_KN, alpha=coefficient)
        return self.problem.at(weight_SKR, scores_SKN)

    def _extrapolate(self, indices: Sequence[int]) -> Point:
        """Return the lowest points of the space through the last nodes."""
        first, *others = [self.nodes[n] for n in sorted(self.nodes, reverse=True)[: self.span]]
        step_SKR = first.weight_KR.new_zeros(len(indices), *first.weight_KR.shape)
        if (guess := self.guess) is not None:
            for step_KR, index in zip(step_SKR, indices, strict=True):
                self._step_from_guess(guess, step_KR, index, first, others)
        elif others:
            space = NodeSpace(self.problem, [first, *others], self.tol)
            for step_KR, index in zip(step_SKR, indices, strict=True):
                for node, coordinate in zip(others, space.lowest(self.log_mus[index]), strict=True):
                    step_KR.add_(node.weight_KR - first.weight_KR, alpha=coordinate)
        # Scores are not summed like weights: the sizes of coordinates add up to 4 to 90, and by as much would rounding
        # grow from node to node.
        return self.problem.step(first.weight_KR, first.scores_KN, step_SKR)

    def _guessed(self, guess: Callable[[float], Tensor], zero: Point) -> Point:
        """Return where the first strength begins: the lowest point of the line through zero and the guess."""
        assert zero.scores_SKN is not None
        step_SKR, origin = torch.zeros_like(zero.weight_SKR), zero.weight_SKR[0]
        self._step_from_guess(guess, step_SKR[0], 0, Node(self.log_mus[0] + NEAR, origin, zero.scores_SKN[0]), [])
        return self.problem.step(origin, zero.scores_SKN[0], step_SKR)

    def _step_from_guess(
        self, guess: Callable[[float], Tensor], step_KR: Tensor, index: int, first: Node, others: Sequence[Node]
    ) -> None:
        """Write the step to the lowest point of the space through the last nodes and, if that is lower, the guess.

        Where the guess is higher than the point it would replace it is of data that differ too much, and not asked for
        again. Of a refit it is lower at strong l2 alone: taken everywhere, l2 = 0.0032 took 872 Hessian products
        instead of 90.
        """
        log_mu, weight_KR = self.log_mus[index], guess(self.l2[index])
        point = self.problem.start(weight_KR[None])
        assert point.scores_SKN is not None
        penalty = math.exp(log_mu) / 2 * float((weight_KR.square() @ self.problem.penalised_R).sum())
        nodes, coordinates, lowest = others, list[float](), self.loss_at_zero
        if others:
            space = NodeSpace(self.problem, [first, *others], self.tol)
            coordinates = space.lowest(log_mu)
            lowest = space.objective(coordinates, log_mu)
        if not float(point.loss_S) + penalty <= lowest:
            self.guess = None  # at weaker strengths it is higher still
        else:
            nodes = [Node(log_mu, weight_KR, point.scores_SKN[0]), *others[: SPAN - 2]]
            coordinates = NodeSpace(self.problem, [first, *nodes], self.tol).lowest(log_mu)
        for node, coordinate in zip(nodes, coordinates, strict=True):
            step_KR.add_(node.weight_KR - first.weight_KR, alpha=coordinate)


def block_strengths(classes: int) -> int:
    """Return the number of strengths that are solved side by side."""
    return min(BLOCK_STRENGTHS, max(1, BLOCK_COLUMNS // classes))


def is_large(classes: int, rows: int) -> bool:
    """Return whether the scores of a node are too many to keep several nodes."""
    return classes * rows >= LARGE


def lagrange_coefficients(log_mus: Sequence[float], at: float) -> list[float]:
    """Return the coefficients of nodes in the polynomial through them (Lagrange's form); linear where it oscillates."""
    coefficients = [math.prod((at - b) / (a - b) for b in log_mus if b != a) for a in log_mus]
    if sum(map(abs, coefficients)) <= 2:
        return coefficients
    above = min(a for a in log_mus if a > at)
    below = max(a for a in log_mus if a < at)
    linear = {above: (at - below) / (above - below), below: (above - at) / (above - below)}
    return [linear.get(a, 0.0) for a in log_mus]


def intermediate_strengths(log_mus: Sequence[float], *, highest: float, distance: float) -> list[float]:
    """Return points at most ``distance`` apart where ``log_mus``, falling from ``highest``, leave more than ``FAR``."""
    points = [highest] if highest - log_mus[0] > FAR else []
    for above, below in zip([highest, *log_mus], log_mus, strict=False):
        if above - below > FAR:
            count = math.ceil((above - below) / distance)
            points += [above + (below - above) * n / count for n in range(1, count)]
    return points
