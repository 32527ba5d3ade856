"""``bench train``: updates a second of a training run, beside timm's loop and beside one batch in memory."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.bench.timing.cells import median_and_range
from penultimate.engine.bench.timing.measurement import compared, other_cores
from penultimate.engine.bench.timing.processes import started
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Laps, Progress, TurnOptions, no_progress, take_turns
from penultimate.engine.bench.train_sides import ONE_BATCH, OURS, SIDES, TIMM, TrainingWork
from penultimate.engine.images.decode.factory import default_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_labelled_images
from penultimate.engine.images.options import ImageOptions
from penultimate.engine.runtime.devices import device_named, dtype_named
from penultimate.engine.runtime.option_types import Count
from penultimate.engine.runtime.strict import Seed
from penultimate.engine.train.learner.network import InitName
from penultimate.engine.train.rows import training_rows
from penultimate.engine.train.runs.resources import ResourceSettings
from penultimate.engine.train.settings import SearchOptions, TrainSettings

_BATCH_ON_CPU, _BATCH_ON_GPU = 32, 256
_UPDATES_ON_CPU, _UPDATES_ON_GPU = 4, 50


class TrainBench(ImageOptions, SearchOptions, ResourceSettings, TurnOptions):
    """All options of ``penultimate bench train`` besides images and network."""

    init: InitName = "random"
    """Fine-tune the weights (pretrained), or train from scratch (random)."""

    seed: Seed = 0
    """Seed of all that is drawn at random, and of splits that are not given."""

    batch_size: Count | None = None
    """Images an update, over all devices together; by default 32 on a CPU, 256 on a GPU."""

    updates: Count | None = None
    """Updates a turn; by default 4 on a CPU, 50 on a GPU."""

    timm_channels_last: bool = False
    """Give timm channels-last memory layout too, as its --channels-last does."""


def bench_train(
    locations: Sequence[str],
    request: BackboneRequest,
    options: TrainBench,
    *,
    command: Sequence[str],
    root: Path | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Measure the training of a network on these images. Raises what ``train`` raises before its first update."""
    dtype_named(options.precision, device_named(options.device))
    images = load_labelled_images(locations, root=root, seed=options.seed, **options.part(ImageOptions).model_dump())
    work, updates = _work(images, request, options), _updates(options)
    search = work.search()
    recipe, num_parameters = search.recipe, sum(each.numel() for each in search.initial.model.parameters())
    training_rows(images, recipe)
    sides = {name: side for name, side in SIDES.items() if name != TIMM or images.labels_N.ndim == 1}
    with ExitStack() as stack:
        remotes = {name: stack.enter_context(started(side, work, updates)) for name, side in sides.items()}
        for name, remote in remotes.items():
            progress(f"{name}, loading", 0.0, options.seconds)
            remote.end()
        contenders = [
            Contender(name=name, group="Updates", run=remote.turn, items=updates) for name, remote in remotes.items()
        ]
        laps = take_turns(contenders, options.part(TurnOptions), progress=progress)
    about = {
        "train_batch_size": recipe.batch_size,
        "train_img_size": recipe.preprocess.height,
        "param_count": num_parameters / 1e6,
    }
    return Report(
        bench="train",
        title=f"Training {recipe.network} on {images.name}",
        command=command,
        settings={
            "set": images.name,
            "network": recipe.network,
            "init": options.init,
            "device": options.device,
            "precision": recipe.precision,
            "batch": recipe.batch_size,
            "size": recipe.preprocess.height,
            "augmenter": recipe.augmenter,
            "decoding workers": options.workers or "one a core",
            "compiled": recipe.compile,
            "timm channels-last": options.timm_channels_last,
            "updates a turn": updates,
        },
        measurements=compared(
            laps, unit="updates/s", details={each.name: about | _timms(each, about) for each in laps}
        ),
        other_cores=other_cores(laps),
        findings=_findings(laps, recipe.batch_size),
        not_measured=[
            "Evaluations and checkpoints are not timed. Both sides have a few batches ready when their turn begins.",
            *([] if TIMM in sides else ["timm's loop takes one label an image."]),
        ],
    )


def _work(images: ImageSet, request: BackboneRequest, options: TrainBench) -> TrainingWork:
    chosen = {name: getattr(options, name) for name in SearchOptions.model_fields}
    usual = _BATCH_ON_GPU if options.device == "cuda" else _BATCH_ON_CPU
    chosen |= {
        "batch_size": options.batch_size or usual,
        "decoder": options.decoder or default_decoder(options.device),
    }
    return TrainingWork(
        images=images,
        request=request,
        settings=TrainSettings.of(chosen | {"init": options.init, "seed": options.seed}),
        resources=options.part(ResourceSettings),
        timm_channels_last=options.timm_channels_last,
    )


def _updates(options: TrainBench) -> int:
    return options.updates or (_UPDATES_ON_GPU if options.device == "cuda" else _UPDATES_ON_CPU)


def _timms(laps: Laps, about: dict[str, float]) -> dict[str, float]:
    """Return the entries of timm's benchmark for training."""
    rate = median(lap.items / lap.wall_seconds for lap in laps.rounds)
    return {"train_samples_per_sec": rate * about["train_batch_size"], "train_step_time": 1e3 / rate}


def _findings(laps: Sequence[Laps], batch_size: int) -> list[str]:
    by_name = {each.name: each for each in laps}
    pairs = zip(by_name[ONE_BATCH].rounds, by_name[OURS].rounds, strict=True)
    ratios = [one.wall_seconds / ours.wall_seconds for one, ours in pairs]
    rate = median(lap.items / lap.wall_seconds for lap in by_name[OURS].rounds)
    return [
        f"{OURS}: {rate * batch_size:,.1f} images/s. It reaches {median_and_range(ratios)} of the speed of one "
        "batch in memory; the rest is waiting for images."
    ]
