"""Compare training steps per second of penultimate and of timm's training loop, in turn, on the same photographs.

timm's ``train.py`` is not part of its wheel; its loop is built here from the pieces it is made of: ``ImageDataset``,
``create_loader`` (random resized crop, flip, no colour jitter, worker processes, prefetcher), ``create_optimizer_v2``,
``create_scheduler_v2``, autocast around the forward pass. Both sides use SGD with Nesterov momentum, a cosine, the
network's size, mean and std, and as many decoding workers.

    python benchmarks/train_speed.py FOLDER --network tf_efficientnet_lite0 --precision float32 --rounds 4
    python benchmarks/train_speed.py FOLDER --against synthetic --device cuda --network resnet50 --batch-size 256

``synthetic`` is penultimate's update of one batch that lies on the device already, so that what decoding costs is seen.
FOLDER is ``class/*.jpg``. Each side is a process of its own, as the allocator's settings and the thread pools of one
would be the other's too; the two take turns, so that another load of the machine meets both.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from penultimate.engine.backbones.timm_backbone import preprocess_of
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.runtime.devices import PRECISIONS, PrecisionName
from penultimate.engine.runtime.malloc import keep_freed_memory
from penultimate.engine.train.augment.augmenter import AugmentedBatch, CropSettings, augmented
from penultimate.engine.train.augment.draws import draw_batch
from penultimate.engine.train.augment.factory import make_augmenter
from penultimate.engine.train.learner.learner import Learner
from penultimate.engine.train.learner.network import InitialModel, load_initial_model
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.world import World
from penultimate.store.provenance import library_versions, source_commit

Update = Callable[[], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The training that both sides do."""

    folder: Path
    network: str
    batch_size: int
    size: int | None
    """Side of the input in pixels; None for the network's own."""

    precision: PrecisionName
    workers: int
    device: str = "cpu"
    timm_channels_last: bool = False
    """timm's ``--channels-last``, off unless the flag is given; penultimate's default is on."""

    compile: bool = False
    """Use ``torch.compile`` on both sides; timm's ``--torchcompile``."""

    keep_memory: bool = True
    """Let penultimate's side keep the memory it frees, as it does in use; False measures the effect of that."""

    channels_last: bool = True
    """Use channels-last layout on penultimate's side."""

    def view(self) -> Preprocess:
        """Return the Preprocess of the input: size, mean and std."""
        view = preprocess_of(load_initial_model(self.network, init="random", weights="timm", seed=0).model, "paper")
        size = self.size or view.height
        return Preprocess(height=size, width=size, resize="whole", mean=view.mean, std=view.std)


def _recipe(work: Workload, initial: InitialModel, images: ImageSet) -> Recipe:
    return Recipe(
        network=initial.network,
        weights=initial.digest,
        images=images.digest,
        batch_size=work.batch_size,
        preprocess=work.view(),
        precision=work.precision,
        channels_last=work.channels_last,
        compile=work.compile,
        eval_every=1,
    )


def _batches(work: Workload, images: ImageSet, recipe: Recipe) -> Iterator[AugmentedBatch]:
    augmenter = make_augmenter("dali", num_workers=work.workers, device=torch.device(work.device))
    draws = (draw_batch(recipe, np.arange(len(images)), step) for step in range(recipe.steps))
    return augmented(augmenter, images, draws, CropSettings.of(recipe))


def _learner(work: Workload, initial: InitialModel, images: ImageSet, recipe: Recipe) -> Learner:
    if work.keep_memory:
        keep_freed_memory()
    return Learner(
        initial,
        recipe,
        num_classes=len(images.class_names),
        steps_per_epoch=len(images) // work.batch_size,
        world=World(rank=0, size=1, device=torch.device(work.device)),
    )


def ours(work: Workload) -> Update:
    """Return a function that does one update of penultimate."""
    images = load_images(str(work.folder))
    initial = load_initial_model(work.network, init="random", weights="timm", seed=0)
    recipe = _recipe(work, initial, images)
    learner, batches = _learner(work, initial, images, recipe), _batches(work, images, recipe)

    def update() -> None:
        batch = next(batches)
        learner.update(batch.step, batch.images_BHWC, torch.from_numpy(images.labels_N[batch.rows_B]))

    return update


def synthetic(work: Workload) -> Update:
    """Return a function that does one update of penultimate on a batch already in memory."""
    images = load_images(str(work.folder))
    initial = load_initial_model(work.network, init="random", weights="timm", seed=0)
    recipe = _recipe(work, initial, images)
    learner, batch = _learner(work, initial, images, recipe), next(_batches(work, images, recipe))
    targets = torch.from_numpy(images.labels_N[batch.rows_B]).to(work.device)
    steps = iter(range(recipe.steps))

    def update() -> None:
        learner.update(next(steps), batch.images_BHWC, targets)

    return update


def timms(work: Workload) -> Update:
    """Return a function that does one update of timm's loop."""
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
        device=torch.device(work.device),
    )
    model = timm.create_model(work.network, num_classes=len(dataset.reader.class_to_idx)).to(work.device)
    if work.timm_channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9, weight_decay=0.0)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=20_000, step_on_epochs=False, updates_per_epoch=1)
    trained = torch.compile(model) if work.compile else model
    loss_of = torch.nn.CrossEntropyLoss()
    dtype = PRECISIONS[work.precision]
    model.train()
    batches = _again_and_again(loader)
    done = iter(range(20_000))

    def update() -> None:
        images, targets = next(batches)
        if work.timm_channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(work.device, dtype=dtype, enabled=dtype is not torch.float32):
            loss = loss_of(trained(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step_update(next(done))

    return update


def _again_and_again(loader: "torch.utils.data.DataLoader[tuple[Tensor, Tensor]]") -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


SIDES: dict[str, Callable[[Workload], Update]] = {"penultimate": ours, "timm": timms, "synthetic": synthetic}


class Side:
    """One side of the comparison, in a process of its own."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name = name
        self._connection = connection

    def steps_per_second(self, steps: int) -> float:
        """Return the rate of ``steps`` updates in a row."""
        self._connection.send(steps)
        return float(self._connection.recv())

    def peak_memory_gb(self) -> float:
        """Return the largest resident memory of its process so far, in GB, without its workers'."""
        self._connection.send(None)
        return float(self._connection.recv())


@contextmanager
def started(name: str, work: Workload) -> Iterator[Side]:
    """Start the side of that name, which builds its network first."""
    context = multiprocessing.get_context("spawn")
    connection, remote_end = context.Pipe()
    process = context.Process(target=_serve, args=(name, work, remote_end))
    process.start()
    remote_end.close()  # so that a side that died is an EOFError here
    try:
        yield Side(name, connection)
    finally:
        connection.close()
        process.join()


def _serve(name: str, work: Workload, connection: Connection) -> None:
    update = SIDES[name](work)
    while True:
        try:
            steps = connection.recv()
        except EOFError:
            return
        if steps is None:
            connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)  # KB on Linux
            continue
        began = time.perf_counter()
        for _ in range(steps):
            update()
        if work.device == "cuda":
            torch.cuda.synchronize()
        connection.send(steps / (time.perf_counter() - began))


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Measurements of each side, by name."""

    steps_per_second: dict[str, list[float]]
    """One value for each round."""

    peak_memory_gb: dict[str, float]


def compare(work: Workload, *, against: str, rounds: int, steps: int, warmup: int) -> Measured:
    """Measure both sides in turn; they alternate in going first."""
    with ExitStack() as stack:
        sides = {name: stack.enter_context(started(name, work)) for name in ("penultimate", against)}
        for side in sides.values():
            side.steps_per_second(warmup)
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds):
            for name in sorted(sides, reverse=number % 2 == 1):
                rates[name].append(sides[name].steps_per_second(steps))
        return Measured(
            steps_per_second=rates, peak_memory_gb={name: side.peak_memory_gb() for name, side in sides.items()}
        )


def main() -> None:
    """Measure one workload and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", choices=("timm", "synthetic"), default="timm")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timm-channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--give-memory-back", action="store_true")
    parser.add_argument("--contiguous", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=3)
    options = parser.parse_args()
    work = Workload(
        folder=options.folder,
        network=options.network,
        batch_size=options.batch_size,
        size=options.size,
        precision=options.precision,
        workers=options.workers,
        device=options.device,
        timm_channels_last=options.timm_channels_last,
        compile=options.compile,
        keep_memory=not options.give_memory_back,
        channels_last=not options.contiguous,
    )
    measured = compare(work, against=options.against, rounds=options.rounds, steps=options.steps, warmup=options.warmup)
    rates = measured.steps_per_second
    ratios = [a / b for a, b in zip(rates["penultimate"], rates[options.against], strict=True)]
    print(
        json.dumps(
            {
                **asdict(work),
                "folder": work.folder.name,
                "size": work.view().height,
                "steps_per_second": rates,
                "peak_memory_gb": measured.peak_memory_gb,
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
