"""Random splits are what the docstring says, sample by sample, whatever the order of labels and the seed of hashes."""

import numpy as np
import pytest

from penultimate.engine.images.image_set import SPLIT_DTYPE
from penultimate.engine.images.splits import allot, by_fraction, draw_missing_splits
from penultimate.store.errors import InputError

# Shapes: N samples.


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_class_is_shuffled_by_its_own_generator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(-1, 7, 400)
    split_N = rng.choice(["train", "test"], 400, p=[0.8, 0.2]).astype(SPLIT_DTYPE)
    expected_N = split_N.copy()
    for label in range(7):
        members = [row for row in range(400) if labels_N[row] == label and split_N[row] == "train"]
        shuffled = np.random.default_rng((seed, label)).permutation(members)
        expected_N[shuffled[: max(1, round(0.2 * len(members)))]] = "val"
    names = [str(label) for label in range(7)]
    found_N = allot(split_N, labels_N, names, by_fraction(val=0.2), among="train", seed=seed)
    np.testing.assert_array_equal(found_N, expected_N)


def test_a_class_without_images_is_named() -> None:
    labels_N = np.array([0] * 6 + [2] * 6)
    with pytest.raises(InputError, match="class 'b' has 0 images to split, and needs at least 3"):
        draw_missing_splits(
            np.full(12, "train", SPLIT_DTYPE), labels_N, ["a", "b", "c"], val_fraction=0.2, test_fraction=0.2, seed=0
        )


def test_nothing_is_drawn_where_val_is_given() -> None:
    split_N = np.array(["train", "val"] * 6, SPLIT_DTYPE)
    labels_N = np.zeros(12, np.int64)
    drawn_N = draw_missing_splits(split_N, labels_N, ["a"], val_fraction=0.2, test_fraction=0.2, seed=0)
    np.testing.assert_array_equal(drawn_N, split_N)
