"""Measure how fast a search trains, on a few of its own updates."""

import time

import torch

from penultimate.engine.train.augment.augmenter import CropSettings, augmented
from penultimate.engine.train.augment.draws import draw_batch
from penultimate.engine.train.augment.factory import make_augmenter
from penultimate.engine.train.learner.learner import Learner
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.rows import training_rows
from penultimate.engine.train.runs.resources import Resources
from penultimate.engine.train.search.grid_search import GridSearch

_UPDATES = 3
"""Updates; the first is warm-up and not counted."""

_IMAGES_ON_A_CPU = 8
"""Images of an update on a CPU, where the rate hardly depends on it and an update of 256 takes minutes."""


def training_images_per_second(search: GridSearch, resources: Resources) -> float:
    """Return images per second through decoding, crop, forward, backward and update, without evaluations.

    Raises what ``train_run`` raises for images and settings that do not suit each other. Nothing is written.
    """
    rows_M = training_rows(search.images, search.recipe)
    recipe = _few_updates(search.recipe, resources)
    device = resources.world.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        learner = Learner(
            search.initial,
            recipe,
            num_classes=len(search.images.class_names),
            steps_per_epoch=max(1, len(rows_M) // recipe.batch_size),
            world=resources.world,
        )
        augmenter = make_augmenter(recipe.augmenter, num_workers=resources.num_workers, device=device)
        began = time.perf_counter()
        draws = (draw_batch(recipe, rows_M, step) for step in range(_UPDATES))
        for step, batch in enumerate(augmented(augmenter, search.images, draws, CropSettings.of(recipe))):
            targets = torch.from_numpy(search.images.labels_N[batch.rows_B])
            learner.update(step, batch.images_BHWC, targets).item()  # waits for the device
            if step == 0:
                began = time.perf_counter()
    return (_UPDATES - 1) * recipe.batch_size / (time.perf_counter() - began)


def _few_updates(recipe: Recipe, resources: Resources) -> Recipe:
    most = _IMAGES_ON_A_CPU if resources.world.device.type == "cpu" else recipe.batch_size
    return recipe.replace(batch_size=min(most, recipe.batch_size), steps=_UPDATES, warmup_steps=0, compile=False)
