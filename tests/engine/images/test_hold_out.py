"""A hold-out has an exact size and is in proportion to the classes."""

from collections import Counter

import numpy as np
import pytest

from penultimate.engine.images.image_set import SPLIT_DTYPE
from penultimate.engine.images.splits import hold_out

# Shapes: N samples.


@pytest.mark.parametrize(
    ("per_class", "total"),
    [([500] * 100, 5_067), ([100] * 37, 740), ([41, 59, 24, 68], 39), ([5, 1], 1), ([3, 3], 0), ([4, 4], 8)],
)
def test_exactly_that_many_are_moved_and_no_class_is_off_by_one(per_class: list[int], total: int) -> None:
    labels_N = np.repeat(np.arange(len(per_class)), per_class)
    split_N = np.full(len(labels_N), "train", SPLIT_DTYPE)
    held_N = hold_out(split_N, labels_N, total, split="val", among="train", seed=0)
    moved = Counter(labels_N[held_N == "val"].tolist())
    assert sum(moved.values()) == total
    assert all(abs(moved[k] - total * n / len(labels_N)) < 1 for k, n in enumerate(per_class))


def test_other_splits_stay_and_the_draw_depends_on_the_seed_alone() -> None:
    labels_N = np.tile(np.arange(3), 20)
    split_N = np.where(np.arange(60) % 4 == 0, "test", "train").astype(SPLIT_DTYPE)
    first, again, other = (hold_out(split_N, labels_N, 10, split="val", among="train", seed=seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert (first[split_N == "test"] == "test").all()
