"""How fast a search trains, measured on a few of its own updates."""

import time
from dataclasses import replace

import torch

from penultimate.engine.train.augment.augmenter import Settings, augmented, make_augmenter
from penultimate.engine.train.augment.draws import draw
from penultimate.engine.train.learner.learner import Learner
from penultimate.engine.train.rows import training_rows
from penultimate.engine.train.runs.run import Means
from penultimate.engine.train.search.grid_search import Search

_UPDATES = 3
"""The first is warm-up and not counted."""

_IMAGES_ON_A_CPU = 8
"""Of an update: there the rate hardly depends on it, and an update of 256 takes minutes."""


def training_images_per_second(search: Search, means: Means) -> float:
    """Images a second through decoding, crop, forward, backward and update; evaluations are no part of it.

    Raises what ``train_run`` raises for images and settings that do not go together. Nothing is written.
    """
    device = means.world.device
    rows_M = training_rows(search.images, search.recipe)
    most = _IMAGES_ON_A_CPU if device.type == "cpu" else search.recipe.batch_size
    recipe = replace(
        search.recipe, batch_size=min(most, search.recipe.batch_size), steps=_UPDATES, warmup_steps=0, compile=False
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        learner = Learner(
            search.start,
            recipe,
            num_classes=len(search.images.class_names),
            steps_per_epoch=max(1, len(rows_M) // recipe.batch_size),
            world=means.world,
        )
        augmenter = make_augmenter(recipe.augmenter, num_workers=means.num_workers, device=device)
        draws = (draw(recipe, rows_M, step) for step in range(_UPDATES))
        began = time.perf_counter()
        for step, batch in enumerate(augmented(augmenter, search.images, draws, Settings.of(recipe))):
            targets = torch.from_numpy(search.images.labels_N[batch.rows_B])
            learner.update(step, batch.images_BHWC, targets).item()
            if step == 0:
                began = time.perf_counter()
    return (_UPDATES - 1) * recipe.batch_size / (time.perf_counter() - began)
