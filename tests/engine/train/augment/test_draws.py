import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from penultimate.engine.train.augment.draws import crop_box, draw_batch, dropout_seed
from penultimate.engine.train.recipe import Recipe

ROWS = np.arange(100, 137)


def test_an_epoch_shows_every_image_at_most_once_and_epochs_differ(recipe: Recipe) -> None:
    steps_per_epoch = len(ROWS) // recipe.batch_size
    epochs = [
        np.concatenate([draw_batch(recipe, ROWS, epoch * steps_per_epoch + s).rows_B for s in range(steps_per_epoch)])
        for epoch in range(3)
    ]
    for rows in epochs:
        assert len(set(rows.tolist())) == len(rows) == 36
        assert set(rows.tolist()) <= set(ROWS.tolist())
    assert not np.array_equal(epochs[0], epochs[1])


def test_draws_depend_on_seed_and_step_alone(recipe: Recipe) -> None:
    again, later, other = (
        draw_batch(recipe, ROWS, 7),
        draw_batch(recipe, ROWS, 8),
        draw_batch(recipe.replace(seed=1), ROWS, 7),
    )
    first = draw_batch(recipe, ROWS, 7)
    np.testing.assert_array_equal(first.crops_BA4, again.crops_BA4)
    np.testing.assert_array_equal(first.rows_B, again.rows_B)
    assert not np.array_equal(first.crops_BA4, later.crops_BA4)
    assert not np.array_equal(first.crops_BA4, other.crops_BA4)
    assert dropout_seed(recipe, 7, 0) != dropout_seed(recipe, 7, 1) != dropout_seed(recipe, 8, 1)


def test_the_parts_of_a_world_are_the_whole(recipe: Recipe) -> None:
    whole = draw_batch(recipe, ROWS, 3)
    parts = [whole.part(rank, 4) for rank in range(4)]
    np.testing.assert_array_equal(np.concatenate([part.rows_B for part in parts]), whole.rows_B)
    np.testing.assert_array_equal(np.concatenate([part.crops_BA4 for part in parts]), whole.crops_BA4)
    np.testing.assert_array_equal(np.concatenate([part.flips_B for part in parts]), whole.flips_B)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (60, 600)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    uniforms = np.random.default_rng(0).random((4000, 10, 4))
    ours = np.array([crop_box(height, width, u, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)) for u in uniforms])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(3, height, width)
        theirs = np.array(
            [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)], dtype=float
        )
    for column in range(4):
        # Fixed seeds, so this never flickers; a wrong distribution (area uniform in sides, say) gives p < 1e-20.
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()


def test_an_image_in_which_no_crop_fits_gives_its_centre() -> None:
    box = crop_box(10, 1000, np.full((10, 4), 0.999), scale=(0.9, 1.0), ratio=(3 / 4, 4 / 3))
    assert box == (0, 493, 10, 13)
