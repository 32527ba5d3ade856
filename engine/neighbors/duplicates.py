"""Near-duplicates: pairs of rows whose distance is a small fraction of what is usual around them."""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.neighbors.local_scale import DEFAULT_RATIO, NEIGHBOR, scales
from penultimate.engine.neighbors.nearest import ROUNDING, Neighbors, nearest, within
from penultimate.engine.neighbors.projected import Recall, nearest_projected
from penultimate.engine.neighbors.unit_rows import pair_distances
from penultimate.store.errors import InputError

# Shapes: N rows, M rows of another set, P pairs, D feature dimensions.

Search = Literal["exact", "projected"]

EXACT_ROWS = 200_000
"""Largest number of rows that are all compared with each other unless asked: 100,000 take minutes on two cores, and
twice as many take four times as long."""

MOST_PAIRS = 2_000_000
"""Largest number of pairs that are listed: they take 48 MB, and nobody looks at more."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pairs:
    """Near-duplicates, in increasing order of their rows."""

    first_P: NDArray[np.int64]
    second_P: NDArray[np.int64]
    """Rows of the same set, larger than ``first_P``, or rows of another set."""

    distance_P: NDArray[np.float32]
    """Cosine distances."""

    def __len__(self) -> int:
        return len(self.first_P)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neighborhood:
    """The rows of one set with their nearest neighbours, of which near-duplicates and outliers are told."""

    unit_ND: NDArray[np.float32]
    neighbors: Neighbors
    asked: Search | None
    """Search that was asked for; None: by the number of rows."""

    device: str
    seed: int
    recall: Recall | None
    """How often the nearest neighbour was found; None where all pairs were compared."""

    @classmethod
    def of(
        cls, unit_ND: NDArray[np.float32], *, search: Search | None = None, device: str = "cpu", seed: int = 0
    ) -> Self:
        """Find the neighbours of rows of length 1 among themselves, exactly up to ``EXACT_ROWS`` rows unless asked."""
        k = max(1, min(NEIGHBOR, len(unit_ND) - 1))
        found, recall = _nearest(unit_ND, unit_ND, k, asked=search, same=True, device=device, seed=seed)
        return cls(unit_ND=unit_ND, neighbors=found, asked=search, device=device, seed=seed, recall=recall)

    @property
    def kth_distance_N(self) -> NDArray[np.float32]:
        """Return the distance to the ``NEIGHBOR``-th neighbour of each row (in a small set to the last), (N,).

        Where cells held fewer neighbours than that, it is the largest possible, 2.
        """
        return np.minimum(self.neighbors.distance_Qk[:, -1], 2)

    @property
    def scale_N(self) -> NDArray[np.float32]:
        """Return the scale of each row, (N,)."""
        return scales(self.kth_distance_N)

    def pairs(self, ratio: float = DEFAULT_RATIO) -> Pairs:
        """Return the pairs of rows whose distance is at most ``ratio`` of the smaller of both scales.

        Raises InputError where there are more than ``MOST_PAIRS``.
        """
        limit_N = ratio * self.scale_N
        first, second = _candidates(self.unit_ND, self.unit_ND, self.neighbors, limit_N, self.device)
        pairs = np.unique(np.sort(np.stack([first, second], 1)[first != second], axis=1), axis=0)
        distance = pair_distances(self.unit_ND, pairs[:, 0], self.unit_ND, pairs[:, 1])
        near = distance <= np.minimum(limit_N[pairs[:, 0]], limit_N[pairs[:, 1]])
        return Pairs(first_P=pairs[near, 0], second_P=pairs[near, 1], distance_P=distance[near])

    def pairs_with(self, other_MD: NDArray[np.float32], ratio: float = DEFAULT_RATIO) -> tuple[Pairs, Recall | None]:
        """Return the pairs with rows of another set whose distance is at most ``ratio`` of this set's scale.

        With them comes how often the nearest row was found, as ``recall``. Raises InputError as ``pairs`` does.
        """
        limit_N = ratio * self.scale_N
        k = min(NEIGHBOR, len(other_MD))
        found, recall = _nearest(
            self.unit_ND, other_MD, k, asked=self.asked, same=False, device=self.device, seed=self.seed
        )
        first, second = _candidates(self.unit_ND, other_MD, found, limit_N, self.device)
        distance = pair_distances(self.unit_ND, first, other_MD, second)
        near = np.flatnonzero(distance <= limit_N[first])
        near = near[np.lexsort((second[near], first[near]))]
        return Pairs(first_P=first[near], second_P=second[near], distance_P=distance[near]), recall


def _nearest(
    queries: NDArray[np.float32],
    bank: NDArray[np.float32],
    k: int,
    *,
    asked: Search | None,
    same: bool,
    device: str,
    seed: int,
) -> tuple[Neighbors, Recall | None]:
    """Find the nearest as asked, or else exactly where both sets have up to ``EXACT_ROWS`` rows."""
    if asked == "exact" or (asked is None and max(len(queries), len(bank)) <= EXACT_ROWS):
        return nearest(queries, bank, k, same=same, device=device), None
    return nearest_projected(queries, bank, k, same=same, device=device, seed=seed)


def _candidates(
    queries: NDArray[np.float32],
    bank: NDArray[np.float32],
    found: Neighbors,
    limit_N: NDArray[np.float32],
    device: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return queries and rows whose distance may be within the query's limit: the neighbours found, and of a query
    whose last neighbour still is within it, whatever else there is."""
    near_Qk = found.distance_Qk <= limit_N[:, None] + ROUNDING
    crowded = np.flatnonzero(near_Qk.all(1))
    near_Qk[crowded] = False
    query_P, rank_P = np.nonzero(near_Qk)
    more = within(queries[crowded], bank, limit_N[crowded], most=MOST_PAIRS, device=device)
    if more is None or len(query_P) > 2 * MOST_PAIRS:
        raise InputError(
            f"more than {MOST_PAIRS:,} pairs of images are near-duplicates at this ratio; choose a smaller --ratio"
        )
    return np.concatenate([query_P, crowded[more[0]]]), np.concatenate([found.rows_Qk[query_P, rank_P], more[1]])
