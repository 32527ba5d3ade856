"""Shots choose k samples of each class by seed."""

import numpy as np
import pytest

from penultimate.store.errors import InputError
from penultimate.store.labels import ABSENT, PRESENT
from penultimate.store.trials.subsets import shots_per_class

LABELS_N = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [10, 20, 30]))
IDS_N = [f"{number}.jpg" for number in range(60)]


def test_every_class_gives_as_many_samples_and_none_twice() -> None:
    rows = shots_per_class(LABELS_N, IDS_N, 5, seed=0)
    assert np.bincount(LABELS_N[rows]).tolist() == [5, 5, 5]
    assert (np.diff(rows) > 0).all()


def test_subsets_of_one_seed_nest_and_seeds_differ() -> None:
    few, more = (set(shots_per_class(LABELS_N, IDS_N, shots, seed=1).tolist()) for shots in (2, 5))
    assert few < more
    assert few != set(shots_per_class(LABELS_N, IDS_N, 2, seed=2).tolist())


def test_a_sample_of_several_classes_may_serve_them_all() -> None:
    labels_NK = np.full((4, 2), ABSENT, np.uint8)
    labels_NK[1] = PRESENT
    assert shots_per_class(labels_NK, IDS_N, 1, seed=0).tolist() == [1]


def test_a_class_with_fewer_samples_is_named() -> None:
    with pytest.raises(InputError, match="class 0 has 10 samples"):
        shots_per_class(LABELS_N, IDS_N, 11, seed=0)


def test_the_draw_goes_by_id_so_that_order_and_missing_samples_change_no_other() -> None:
    drawn = shots_per_class(LABELS_N, IDS_N, 5, seed=3)
    order = np.random.default_rng(1).permutation(60)
    again = shots_per_class(LABELS_N[order], [IDS_N[i] for i in order], 5, seed=3)
    assert sorted(order[again].tolist()) == drawn.tolist()
    kept = np.delete(np.arange(60), drawn[4])
    without = kept[shots_per_class(LABELS_N[kept], [IDS_N[i] for i in kept], 5, seed=3)]
    assert set(drawn.tolist()) - set(without.tolist()) == {drawn[4]}


def test_samples_of_a_class_are_equally_likely() -> None:
    counts = np.zeros(60)
    for seed in range(600):
        counts[shots_per_class(LABELS_N, IDS_N, 2, seed=seed)] += 1
    expected = 600 * 2 / np.array([10, 20, 30])[LABELS_N]
    # A binomial count of mean 40 to 120 strays five standard deviations once in millions.
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
