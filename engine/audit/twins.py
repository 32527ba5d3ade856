"""Twins: pairs of equal images, by their content, and of near-duplicates, by their features, within and across sets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.audit.settings import AuditSettings
from penultimate.engine.neighbors.duplicates import Neighborhood, Pairs
from penultimate.engine.neighbors.projected import Recall
from penultimate.engine.neighbors.unit_rows import unit_rows
from penultimate.store.feature_set import FeatureSet
from penultimate.store.format.contents import is_known

SPLITS = ("train", "val", "test")

# Shapes: N rows of the audited set, G rows of it and of the sets it is compared with, one after the other, P pairs.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """The rows of the audited set and of the sets it is compared with, one after the other."""

    sets: tuple[FeatureSet, ...]
    """The audited set first."""

    offsets: tuple[int, ...]
    """The row at which each set begins, and the number of all."""

    part_G: NDArray[np.int64]
    """Number of the set and split of each row: three a set, in the order of ``SPLITS``."""

    equal_G: NDArray[np.int64]
    """The first row of equal content, which is the row itself where no content is known."""

    @classmethod
    def of(cls, sets: Sequence[FeatureSet]) -> Self:
        """Number the rows of the sets."""
        offsets = np.cumsum([0, *(each.num_rows for each in sets)])
        parts = [
            len(SPLITS) * index + (features.split[:, None] == np.array(SPLITS)).argmax(1)
            for index, features in enumerate(sets)
        ]
        return cls(
            sets=tuple(sets),
            offsets=tuple(offsets.tolist()),
            part_G=np.concatenate(parts),
            equal_G=_first_equal(np.concatenate([each.contents for each in sets])),
        )

    def first_of_equals(self, index: int) -> NDArray[np.int64]:
        """Return the rows, counted within set ``index``, whose content no earlier row has."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return np.flatnonzero(self.equal_G[part] == np.arange(part.start, part.stop))

    def groups(self) -> Mapping[int, list[int]]:
        """Return the rows of equal content, by the first of them, where there are two or more."""
        order = np.argsort(self.equal_G, kind="stable")
        firsts, starts, counts = np.unique(self.equal_G[order], return_index=True, return_counts=True)
        several = counts > 1
        return {
            first: order[start : start + count].tolist()
            for first, start, count in zip(
                firsts[several].tolist(), starts[several].tolist(), counts[several].tolist(), strict=True
            )
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Twins:
    """Pairs of rows of which at least the first is of the audited set.

    Of many equal images not every pair is listed, but every image is in one with each part (set and split) that has
    another.
    """

    rows: Rows
    first_P: NDArray[np.int64]
    second_P: NDArray[np.int64]
    """Rows as ``Rows`` numbers them, the larger of the pair."""

    distance_P: NDArray[np.float32]
    """Cosine distance of the features; 0 of equal images."""

    equal_P: NDArray[np.bool_]
    """True where the content is equal, byte for byte or pixel for pixel."""

    kth_distance_N: NDArray[np.float32]
    """Cosine distance of each row of the audited set to its tenth neighbour, equal images counted once."""

    scale: float
    """Median of the scales with which distances are compared."""

    recalls: tuple[tuple[str, Recall], ...]
    """Recall of each search in which not every pair was compared, with the name of the set that was searched."""


def find_twins(features: FeatureSet, others: Sequence[FeatureSet], settings: AuditSettings) -> Twins:
    """Find the equal images and near-duplicates within one set, and between it and others of the same embedding.

    Memory: the features of the largest two sets in float32. Raises InputError for features that are not finite and for
    more pairs than are listed.
    """
    rows = Rows.of([features, *others])
    own = rows.first_of_equals(0)
    hood = Neighborhood.of(unit_rows(features, own), search=settings.search, device=settings.device, seed=settings.seed)
    found = [_numbered(hood.pairs(settings.ratio), own, own)]
    recalls = [] if hood.recall is None else [(features.key.dataset, hood.recall)]
    for index, other in enumerate(others, start=1):
        theirs = rows.first_of_equals(index)
        if not len(theirs):
            continue
        pairs, recall = hood.pairs_with(unit_rows(other, theirs), settings.ratio)
        found.append(_numbered(pairs, own, theirs + rows.offsets[index]))
        recalls += [] if recall is None else [(other.key.dataset, recall)]
    first, second, distance, equal = _with_equals(rows, [np.concatenate(each) for each in zip(*found, strict=True)])
    kth_distance_N = np.empty(features.num_rows, np.float32)
    kth_distance_N[own] = hood.kth_distance_N
    return Twins(
        rows=rows,
        first_P=first,
        second_P=second,
        distance_P=distance,
        equal_P=equal,
        kth_distance_N=kth_distance_N[rows.equal_G[: features.num_rows]],
        scale=float(np.median(hood.scale_N)),
        recalls=tuple(recalls),
    )


def _first_equal(contents_G3: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the first row of equal content for each row; the row itself where the content is not known."""
    equal_G = np.arange(len(contents_G3))
    known = np.flatnonzero(is_known(contents_G3))
    if len(known):
        _, first, inverse = np.unique(contents_G3[known], axis=0, return_index=True, return_inverse=True)
        equal_G[known] = known[first[inverse.ravel()]]
    return equal_G


def _numbered(
    pairs: Pairs, own: NDArray[np.int64], theirs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    return own[pairs.first_P], theirs[pairs.second_P], pairs.distance_P


def _with_equals(
    rows: Rows, near: Sequence[NDArray[np.int64] | NDArray[np.float32]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Return the pairs of near-duplicates, of which each stands for all its equals, with theirs, and of the equals."""
    first_P, second_P, distance_P = near
    groups = rows.groups()
    grouped = np.array(sorted(groups), np.int64)
    alone = ~(np.isin(first_P, grouped) | np.isin(second_P, grouped))
    of_groups = [
        (*pair, distance, False)
        for a, b, distance in zip(
            first_P[~alone].tolist(), second_P[~alone].tolist(), distance_P[~alone].tolist(), strict=True
        )
        for pair in _linked(groups.get(a, [a]), groups.get(b, [b]), rows.part_G)
    ] + [(*pair, 0.0, True) for members in groups.values() for pair in _equals(members, rows.part_G)]
    more = np.array(of_groups, np.float64).reshape(-1, 4)
    pairs_P2 = np.concatenate([np.stack([first_P[alone], second_P[alone]], 1), more[:, :2]]).astype(np.int64)
    pairs_P2 = np.sort(pairs_P2, axis=1)
    kept = np.flatnonzero(pairs_P2[:, 0] < rows.offsets[1])
    kept = kept[np.lexsort((pairs_P2[kept, 1], pairs_P2[kept, 0]))]
    distance = np.concatenate([distance_P[alone], more[:, 2]]).astype(np.float32)
    equal = np.concatenate([np.zeros(int(alone.sum()), np.bool_), more[:, 3] == 1])
    return pairs_P2[kept, 0], pairs_P2[kept, 1], distance[kept], equal[kept]


def _linked(first: Sequence[int], second: Sequence[int], part_G: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield pairs that join each row of one group with the first of each part of the other: not every pair."""
    for those in _by_part(first, part_G):
        for others in _by_part(second, part_G):
            yield from ((those[0], each) for each in others)
            yield from ((each, others[0]) for each in those[1:])


def _equals(members: Sequence[int], part_G: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield pairs of one group that join each row with the first of its own part and of every other."""
    parts = _by_part(members, part_G)
    for those in parts:
        yield from ((those[0], each) for each in those[1:])
    for those, others in combinations(parts, 2):
        yield from _linked(those, others, part_G)


def _by_part(members: Sequence[int], part_G: NDArray[np.int64]) -> list[list[int]]:
    parts: dict[int, list[int]] = {}
    for row in members:
        parts.setdefault(int(part_G[row]), []).append(row)
    return list(parts.values())
