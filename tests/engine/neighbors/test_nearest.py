"""Neighbours and near-duplicates against brute force in float64, whatever the blocks in which they are found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.simulated_cuda import simulated_cuda

from penultimate.engine.neighbors import nearest as nearest_module
from penultimate.engine.neighbors import projected
from penultimate.engine.neighbors.duplicates import Neighborhood, Search
from penultimate.engine.neighbors.local_scale import scales
from penultimate.engine.neighbors.nearest import Neighbors, nearest, within
from penultimate.engine.neighbors.projected import nearest_projected
from penultimate.engine.neighbors.unit_rows import pair_distances, scale_to_unit, unit_rows
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet


def _rows(num: int, *, dims: int = 24, seed: int = 0) -> NDArray[np.float32]:
    """Return unit rows in clusters, as photographs of some classes are, with a few near copies among them."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(12, dims))[rng.integers(12, size=num)] + 0.7 * rng.normal(size=(num, dims))
    copies = rng.choice(num, num // 10, replace=False)
    rows[copies] = rows[(copies + 1) % num] + 0.03 * rng.normal(size=(len(copies), dims))
    unit = rows.astype(np.float32)
    scale_to_unit(unit)
    return unit


def _distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    return 1 - first.astype(np.float64) @ second.astype(np.float64).T


@pytest.fixture(params=[(1_024, 8_192), (7, 5), (64, 9)], ids=str)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (nearest_module, projected):
        monkeypatch.setattr(module, "QUERY_ROWS", request.param[0])
        monkeypatch.setattr(module, "BANK_ROWS", request.param[1])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("k", [1, 10, 150])
def test_the_nearest_are_those_of_brute_force(k: int) -> None:
    queries, bank = _rows(60, seed=1), _rows(130)
    found = nearest(queries, bank, k, same=False)
    expected = np.sort(_distances(queries, bank), 1)[:, :k]
    there = min(k, 130)
    np.testing.assert_allclose(found.distance_Qk[:, :there], expected, atol=1e-5)  # float32 products of unit rows
    own = pair_distances(queries, np.repeat(np.arange(60), there), bank, found.rows_Qk[:, :there].ravel())
    np.testing.assert_allclose(own.reshape(60, there), expected, atol=1e-5)
    assert (found.rows_Qk[:, there:] == -1).all()
    assert np.isinf(found.distance_Qk[:, there:]).all()


@pytest.mark.usefixtures("blocks")
def test_no_row_is_its_own_neighbour_and_an_equal_row_is() -> None:
    rows = np.concatenate([_rows(90), _rows(90)[:3]])
    found = nearest(rows, rows, 5, same=True)
    assert (found.rows_Qk != np.arange(93)[:, None]).all()
    assert found.rows_Qk[:3, 0].tolist() == [90, 91, 92]
    distances = _distances(rows, rows)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(found.distance_Qk, np.sort(distances, 1)[:, :5], atol=1e-5)


@pytest.mark.usefixtures("blocks")
def test_all_pairs_within_a_limit_of_each_query_are_found() -> None:
    queries, bank = _rows(40, seed=1), _rows(130)
    limits = np.linspace(0, 0.6, 40, dtype=np.float32)
    found = within(queries, bank, limits, most=10_000)
    assert found is not None
    pairs = set(zip(*(each.tolist() for each in found), strict=True))
    distances = _distances(queries, bank)
    assert pairs >= set(zip(*(each.tolist() for each in np.nonzero(distances <= limits[:, None])), strict=True))
    assert pairs <= set(zip(*(each.tolist() for each in np.nonzero(distances <= limits[:, None] + 2e-5)), strict=True))
    assert within(queries, bank, limits, most=len(pairs) - 1) is None


def _near_duplicates(rows: NDArray[np.float32], ratio: float) -> set[tuple[int, int]]:
    """Return near-duplicates by their definition, a pair at a time."""
    distances = _distances(rows, rows)
    np.fill_diagonal(distances, np.inf)
    tenth = np.sort(distances, 1)[:, min(10, len(rows) - 1) - 1]
    scale = np.maximum(tenth, np.median(tenth) / 2)
    count = len(rows)
    return {
        (i, j) for i in range(count) for j in range(i + 1, count) if distances[i, j] <= ratio * min(scale[i], scale[j])
    }


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.9])
def test_near_duplicates_are_those_of_the_definition(ratio: float) -> None:
    rows = _rows(150)
    pairs = Neighborhood.of(rows).pairs(ratio)
    found = set(zip(pairs.first_P.tolist(), pairs.second_P.tolist(), strict=True))
    assert found == _near_duplicates(rows, ratio)
    assert len(found) == len(pairs)
    assert ratio < 0.3 or found
    np.testing.assert_allclose(pairs.distance_P, _distances(rows, rows)[pairs.first_P, pairs.second_P], atol=1e-6)


def test_a_group_of_more_copies_than_neighbours_are_kept_is_found_whole() -> None:
    copies = _rows(1) + 1e-4 * np.random.default_rng(0).normal(size=(30, 24)).astype(np.float32)
    scale_to_unit(copies)
    pairs = Neighborhood.of(np.concatenate([_rows(100, seed=2), copies])).pairs()
    assert ((pairs.first_P >= 100) & (pairs.second_P >= 100)).sum() == 30 * 29 // 2


def test_neither_the_length_of_rows_nor_their_order_matters() -> None:
    rows = _rows(150)
    order = np.random.default_rng(3).permutation(150)
    moved = Neighborhood.of(rows[order]).pairs()
    back = np.sort(order[np.stack([moved.first_P, moved.second_P])], 0)
    assert set(zip(*back.tolist(), strict=True)) == _near_duplicates(rows, 0.3)
    lengths = np.random.default_rng(4).uniform(0.01, 100, size=(150, 1)).astype(np.float32)
    scaled = FeatureSet.of(lengths * rows, np.zeros(150, np.int64), ["train"] * 150)
    np.testing.assert_allclose(unit_rows(scaled, np.arange(150)), rows, rtol=1e-5, atol=1e-7)


def test_pairs_with_another_set_are_within_a_fraction_of_the_scale_of_the_first() -> None:
    rows, others = _rows(120), np.concatenate([_rows(40, seed=9), _rows(120)[5:25]])
    hood = Neighborhood.of(rows)
    pairs, recall = hood.pairs_with(others, 0.3)
    near = _distances(rows, others) <= 0.3 * hood.scale_N[:, None]
    assert recall is None
    assert list(zip(pairs.first_P, pairs.second_P, strict=True)) == list(zip(*np.nonzero(near), strict=True))
    assert set(zip(range(5, 25), range(40, 60), strict=True)) <= set(zip(pairs.first_P, pairs.second_P, strict=True))


def test_more_pairs_than_are_listed_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penultimate.engine.neighbors.duplicates.MOST_PAIRS", 1_000)
    with pytest.raises(InputError, match=r"more than 1,000 pairs of images are near-duplicates.*smaller --ratio"):
        Neighborhood.of(np.repeat(_rows(4), 40, 0)).pairs()


@pytest.mark.usefixtures("blocks")
def test_a_projection_that_visits_every_cell_and_keeps_every_dimension_misses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(projected, "VISITED", 100)
    rows = _rows(150)
    exact, (found, recall) = nearest(rows, rows, 10, same=True), nearest_projected(rows, rows, 10, same=True)
    np.testing.assert_allclose(found.distance_Qk, exact.distance_Qk, atol=1e-5)
    assert recall.num_found == recall.num_rows == 150


def test_what_a_projection_finds_is_exact_and_its_recall_is_that_of_brute_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(projected, "DIMS", 4)
    monkeypatch.setattr(projected, "VISITED", 1)
    rows = _rows(900)
    found, recall = nearest_projected(rows, rows, 10, same=True)
    there = found.rows_Qk >= 0
    query, rank = np.nonzero(there)
    np.testing.assert_allclose(
        found.distance_Qk[there], pair_distances(rows, query, rows, found.rows_Qk[query, rank]), atol=1e-5
    )
    assert (found.rows_Qk != np.arange(900)[:, None]).all()
    distances = _distances(rows, rows)
    np.fill_diagonal(distances, np.inf)
    assert 0 < recall.num_found < recall.num_rows == 900
    assert recall.num_found == (found.distance_Qk[:, 0] <= distances.min(1) + 1e-5).sum()


def test_a_projected_search_finds_the_copies_and_says_its_recall() -> None:
    rows = _rows(900)
    hood = Neighborhood.of(rows, search="projected")
    pairs = hood.pairs()
    expected = _near_duplicates(rows, 0.3)
    assert hood.recall is not None
    assert len(expected) > 50
    assert set(zip(pairs.first_P.tolist(), pairs.second_P.tolist(), strict=True)) == expected


def test_rows_of_zeros_are_near_to_nothing() -> None:
    rows = np.concatenate([_rows(50), np.zeros((3, 24), np.float32)])
    pairs = Neighborhood.of(rows).pairs()
    assert pairs.second_P.max() < 50
    assert pair_distances(rows, np.array([50, 0]), rows, np.array([51, 51])).tolist() == [1, 1]


def test_one_row_and_two_rows_have_the_neighbours_that_there_are() -> None:
    assert len(Neighborhood.of(_rows(1)).pairs()) == 0
    assert len(Neighborhood.of(np.repeat(_rows(1), 2, 0)).pairs()) == 1


def test_a_scale_is_at_least_half_the_median() -> None:
    assert scales(np.array([0, 0.1, 0.4, 0.4, 0.5], np.float32)).tolist() == pytest.approx([0.2, 0.2, 0.4, 0.4, 0.5])


def test_features_that_are_not_finite_are_refused_by_id() -> None:
    rows = _rows(5)
    rows[3, 2] = np.nan
    features = FeatureSet.of(rows, np.zeros(5, np.int64), ["train"] * 5, ids_N=list("abcde"))
    with pytest.raises(InputError, match="features of 1 samples are NaN or infinite: d"):
        unit_rows(features, np.arange(5))


def test_neighbours_that_no_cell_held_count_as_the_farthest() -> None:
    neighbors = Neighbors(rows_Qk=np.array([[1, -1]]), distance_Qk=np.array([[0.1, np.inf]], np.float32))
    hood = replace(Neighborhood.of(_rows(1)), neighbors=neighbors)
    assert hood.kth_distance_N.tolist() == [2]


@pytest.mark.parametrize("search", ["exact", "projected"])
def test_on_a_gpu_nothing_mixes_devices_and_the_same_pairs_are_found(search: Search) -> None:
    rows, others = _rows(300), _rows(80, seed=5)
    here = Neighborhood.of(rows, search=search)
    with simulated_cuda():
        there = Neighborhood.of(rows, search=search, device="cuda")
        pairs, across = there.pairs(), there.pairs_with(others)[0]
    assert (pairs.first_P == here.pairs().first_P).all()
    assert (pairs.second_P == here.pairs().second_P).all()
    assert (across.second_P == here.pairs_with(others)[0].second_P).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("search", ["exact", "projected"])
def test_a_gpu_finds_the_same_pairs(search: Search) -> None:
    rows = _rows(900)
    here, there = (Neighborhood.of(rows, search=search, device=device).pairs() for device in ("cpu", "cuda"))
    assert _near_duplicates(rows, 0.3) == set(zip(there.first_P.tolist(), there.second_P.tolist(), strict=True))
    assert len(here) == len(there)
