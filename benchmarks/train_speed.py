"""Training steps a second of penultimate and of timm's training loop, in turn, on the same photographs.

timm's ``train.py`` is not part of its wheel; its loop is built here from the pieces it is made of: ``ImageDataset``,
``create_loader`` (random resized crop, flip, no colour jitter, worker processes, prefetcher), ``create_optimizer_v2``,
``create_scheduler_v2``, autocast around the forward pass. Both sides use SGD with Nesterov momentum, a cosine, the
network's size, mean and std, and as many decoding workers.

    python benchmarks/train_speed.py FOLDER --network tf_efficientnet_lite0 --precision float32 --rounds 4

FOLDER is ``class/*.jpg``. The two take turns, so that another load of the machine meets both.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from penultimate.engine.backbones.devices import PRECISIONS
from penultimate.engine.backbones.timm_backbone import preprocess_of
from penultimate.engine.images.datasets import load_images
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.train.augment import Settings, augmented, make_augmenter
from penultimate.engine.train.draws import draw
from penultimate.engine.train.learner import Learner
from penultimate.engine.train.network import load_start
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.world import World
from penultimate.store.provenance import library_versions, machine, source_commit

Update = Callable[[], None]
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What both sides train."""

    folder: Path
    network: str
    batch_size: int
    size: int | None
    """Pixels; None: the network's own."""

    precision: str
    workers: int
    timm_channels_last: bool
    """timm's ``--channels-last``, off unless asked for; penultimate's default is on."""

    def view(self) -> Preprocess:
        """Height, width, mean and std of the input."""
        view = preprocess_of(load_start(self.network, init="random", weights="timm", seed=0).model, "paper")
        size = self.size or view.height
        return Preprocess(height=size, width=size, resize="whole", mean=view.mean, std=view.std)


def ours(work: Workload) -> Update:
    """One update of penultimate a call."""
    images = load_images(str(work.folder))
    start = load_start(work.network, init="random", weights="timm", seed=0)
    recipe = Recipe(
        network=start.network,
        weights=start.digest,
        images=images.digest,
        batch_size=work.batch_size,
        preprocess=work.view(),
        precision=work.precision,
        eval_every=1,
    )
    rows = np.arange(len(images))
    learner = Learner(
        start,
        recipe,
        num_classes=len(images.class_names),
        steps_per_epoch=len(rows) // work.batch_size,
        world=World(rank=0, size=1, device=CPU),
    )
    augmenter = make_augmenter("dali", num_workers=work.workers, device=CPU)
    draws = (draw(recipe, rows, step) for step in range(recipe.steps))
    batches = augmented(augmenter, images, draws, Settings.of(recipe))
    labels_N = images.labels_N

    def update() -> None:
        batch = next(batches)
        learner.update(batch.step, batch.images_BHWC, torch.from_numpy(labels_N[batch.rows_B])).item()

    return update


def timms(work: Workload) -> Update:
    """One update of timm's loop a call."""
    import timm
    from timm.data import ImageDataset, create_loader  # type: ignore[attr-defined]
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
    from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]

    view = work.view()
    dataset = ImageDataset(str(work.folder))  # type: ignore[no-untyped-call]
    loader = create_loader(
        dataset,
        input_size=(3, view.height, view.width),
        batch_size=work.batch_size,
        is_training=True,
        color_jitter=0.0,
        interpolation=view.interpolation,
        mean=view.mean,
        std=view.std,
        num_workers=work.workers,
        device=CPU,
    )
    model = timm.create_model(work.network, num_classes=len(dataset.reader.class_to_idx))
    if work.timm_channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9, weight_decay=0.0)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=20_000, step_on_epochs=False, updates_per_epoch=1)
    loss_of = torch.nn.CrossEntropyLoss()
    dtype = PRECISIONS[work.precision]
    model.train()
    batches = _again_and_again(loader)
    done = iter(range(20_000))

    def update() -> None:
        images, targets = next(batches)
        if work.timm_channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
            loss = loss_of(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step_update(next(done))
        loss.item()

    return update


def _again_and_again(loader: "torch.utils.data.DataLoader[tuple[Tensor, Tensor]]") -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def steps_per_second(update: Update, steps: int) -> float:
    """Of ``steps`` updates in a row."""
    began = time.perf_counter()
    for _ in range(steps):
        update()
    return steps / (time.perf_counter() - began)


def compare(work: Workload, *, rounds: int, steps: int, warmup: int) -> dict[str, list[float]]:
    """Steps a second of each side, a value a round; the sides alternate in going first."""
    sides = {"penultimate": ours(work), "timm": timms(work)}
    for update in sides.values():
        steps_per_second(update, warmup)
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=number % 2 == 1):
            measured[name].append(steps_per_second(sides[name], steps))
    return measured


def main() -> None:
    """Measure one workload and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timm-channels-last", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=3)
    asked = parser.parse_args()
    work = Workload(
        folder=asked.folder,
        network=asked.network,
        batch_size=asked.batch_size,
        size=asked.size,
        precision=asked.precision,
        workers=asked.workers,
        timm_channels_last=asked.timm_channels_last,
    )
    measured = compare(work, rounds=asked.rounds, steps=asked.steps, warmup=asked.warmup)
    ratios = [a / b for a, b in zip(measured["penultimate"], measured["timm"], strict=True)]
    print(
        json.dumps(
            {
                "network": work.network,
                "size": work.view().height,
                "batch_size": work.batch_size,
                "precision": work.precision,
                "timm_channels_last": work.timm_channels_last,
                "steps_per_second": measured,
                "ratio_median": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "versions": library_versions(),
                "machine": machine(),
                "commit": source_commit(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
