"""Sides of the training benchmark, each of which trains some updates in a process of its own whenever it is told to.

``penultimate`` is ``train_run``, what ``penultimate train`` runs, held between turns where it logs. ``one batch in
memory`` is the same update without reading, decoding and augmenting. ``timm's loop`` is that of timm's ``train.py`` at
its defaults, made of timm's public pieces because the script is not in its wheel: ``create_loader`` (random resized
crop, flip, worker processes, prefetching), ``create_optimizer_v2``, ``create_scheduler_v2``, autocast around the
forward pass. All use SGD with Nesterov momentum and a cosine.
"""

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.bench.timing.processes import Turns
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.devices import PRECISIONS
from penultimate.engine.runtime.malloc import keep_freed_memory
from penultimate.engine.train.augment.augmenter import CropSettings, augmented
from penultimate.engine.train.augment.draws import draw_batch
from penultimate.engine.train.augment.factory import make_augmenter
from penultimate.engine.train.learner.learner import Learner
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.rows import training_rows
from penultimate.engine.train.runs.resources import Resources, ResourceSettings, open_resources
from penultimate.engine.train.runs.run import train_run
from penultimate.engine.train.search.grid_search import GridSearch
from penultimate.engine.train.settings import TrainSettings

_ENDLESS = 10**7
"""Number of updates that no benchmark reaches: no run ends, evaluates or checkpoints while it is timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingWork:
    """The training that all sides do; it can be pickled."""

    images: ImageSet
    request: BackboneRequest
    settings: TrainSettings
    resources: ResourceSettings
    timm_channels_last: bool

    def search(self) -> GridSearch:
        """Return the search of which the first run is measured. Raises what ``train`` raises."""
        settings = self.settings.replace(steps=_ENDLESS, eval_every=_ENDLESS)
        return settings.search(self.images, settings.initial_model(self.request))


def penultimates(work: TrainingWork, steps: int, turns: Turns) -> None:
    """Train as ``penultimate train`` does, held where a run logs, every ``steps`` updates."""
    keep_freed_memory()  # as the command line does
    search = work.search()

    def report(recipe: Recipe, row: Mapping[str, Any]) -> None:
        if row["event"] == "step":
            turns.over(steps)

    settings = work.resources.replace(log_every=steps, checkpoint_every=_ENDLESS)
    with tempfile.TemporaryDirectory() as folder, open_resources(settings, report=report) as resources:
        turns.ready()
        train_run(search.images, search.initial, search.recipes[0], Path(folder) / "run", resources)


def in_memory(work: TrainingWork, steps: int, turns: Turns) -> None:
    """Do the update of a run on one batch that is on the device already."""
    keep_freed_memory()
    with open_resources(work.resources) as resources:
        update = _update_of_one_batch(work, resources)
        _turn_after_turn(update, steps, turns, work.resources.device)


def _update_of_one_batch(work: TrainingWork, resources: Resources) -> Callable[[int], object]:
    search = work.search()
    recipe, images = search.recipes[0], search.images
    rows_M: NDArray[np.int64] = training_rows(images, recipe)
    learner = Learner(
        search.initial,
        recipe,
        num_classes=len(images.class_names),
        steps_per_epoch=len(rows_M) // recipe.batch_size,
        world=resources.world,
    )
    augmenter = make_augmenter(recipe.augmenter, num_workers=resources.num_workers, device=resources.world.device)
    batch = next(augmented(augmenter, images, [draw_batch(recipe, rows_M, 0)], CropSettings.of(recipe)))
    targets = torch.from_numpy(images.labels_N[batch.rows_B]).to(resources.world.device)
    return lambda step: learner.update(step, batch.images_BHWC, targets)


def timms(work: TrainingWork, steps: int, turns: Turns) -> None:
    """Train by the loop of timm's ``train.py``."""
    _turn_after_turn(_timms_update(work), steps, turns, work.resources.device)


def _timms_update(work: TrainingWork) -> Callable[[int], object]:
    import timm
    from timm.data import create_loader  # type: ignore[attr-defined]
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
    from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]

    search = work.search()
    recipe, images, device = search.recipes[0], search.images, torch.device(work.resources.device)
    view = recipe.preprocess
    dataset: Any = _Photographs(images, training_rows(images, recipe))  # timm asks for its own, and uses any
    loader = create_loader(
        dataset,
        input_size=(3, view.height, view.width),
        batch_size=recipe.batch_size,
        is_training=True,
        color_jitter=0.0,
        interpolation=view.interpolation,
        mean=view.mean,
        std=view.std,
        num_workers=work.resources.workers or usable_cores(),
        device=device,
    )
    model = timm.create_model(recipe.network, num_classes=len(images.class_names)).to(device)
    if work.timm_channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9, weight_decay=0.0)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=_ENDLESS, step_on_epochs=False, updates_per_epoch=1)
    trained: Any = torch.compile(model) if recipe.compile else model
    loss_of, dtype = torch.nn.CrossEntropyLoss(), PRECISIONS[recipe.precision]
    model.train()
    batches = _again_and_again(loader)

    def update(step: int) -> None:
        pixels, targets = next(batches)
        if work.timm_channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            loss = loss_of(trained(pixels), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step_update(step)

    return update


class _Photographs(torch.utils.data.Dataset[tuple[Any, int]]):
    """Images of a set as timm's loader takes them: PIL images through its ``transform``."""

    transform: Callable[[Image.Image], Any] | None = None
    """Set by the loader."""

    def __init__(self, images: ImageSet, rows_M: NDArray[np.int64]) -> None:
        self._images, self._rows_M = images, rows_M

    def __len__(self) -> int:
        return len(self._rows_M)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        row = int(self._rows_M[index])
        content = self._images.source.read(row)
        opened = Image.open(io.BytesIO(content)) if isinstance(content, bytes) else Image.fromarray(content)
        assert self.transform is not None, "the loader has set it"
        return self.transform(opened.convert("RGB")), int(self._images.labels_N[row])


def _again_and_again(loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def _turn_after_turn(update: Callable[[int], object], steps: int, turns: Turns, device: str) -> None:
    turns.ready()
    for step in range(_ENDLESS):
        update(step)
        if (step + 1) % steps == 0:
            if device == "cuda":
                torch.cuda.synchronize()
            turns.over(steps)


OURS, ONE_BATCH, TIMM = "penultimate", "one batch in memory", "timm's loop"

SIDES: dict[str, Callable[[TrainingWork, int, Turns], None]] = {
    TIMM: timms,
    ONE_BATCH: in_memory,
    OURS: penultimates,
}
"""Name of a side -> function that trains in its process; the first is what others are compared with."""
