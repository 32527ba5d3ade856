"""``penultimate train``: fine-tune a network or train it from scratch by the paper's protocol."""

from pathlib import Path
from typing import Annotated, Any

import typer

from penultimate.cli import options
from penultimate.cli.output import log, print_json, print_table
from penultimate.cli.output_paths import folder_to_write
from penultimate.cli.settings_option import Given, with_settings
from penultimate.cli.training_progress import TrainingProgress
from penultimate.engine.backbones.catalog import refuse_to_train
from penultimate.engine.backbones.loading.weights import check_source, check_weights_of
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.images.load import load_labelled_images
from penultimate.engine.images.options import ImageOptions
from penultimate.engine.images.summary import summary_of
from penultimate.engine.runtime.partition import Partition
from penultimate.engine.train.api import train_job
from penultimate.engine.train.runs.resources import open_resources
from penultimate.engine.train.sweep import TrainJob
from penultimate.store.trials.trial import Trial

_FLAGS = {
    options.WHAT: (
        "init",
        "size",
        "shots",
        "seed",
        "label_column",
        "multi_label",
        "val_fraction",
        "test_fraction",
    ),
    options.HOW: (
        "grid",
        "learning_rates --learning-rate",
        "weight_decays --weight-decay",
        "steps",
        "batch_size --batch-size -b",
        "retrain",
    ),
    options.WHERE: ("device", "precision", "workers --workers -j"),
}
"""Settings in daily use, which have flags of their own; ``--set`` takes all."""


class TrainOptions(ImageOptions, TrainJob):
    """All options of ``penultimate train`` besides images, network and folders."""


@with_settings(TrainOptions, flags=_FLAGS)
def train(
    images: options.Images,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A timm name, `arch` or `arch.tag`.", rich_help_panel=options.WHAT)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder of the runs, one below it for each; made if absent.",
            rich_help_panel=options.WHERE,
            callback=folder_to_write,
        ),
    ],
    settings: Given,
    weights: options.Weights = "timm",
    root: options.Root = None,
    trials: Annotated[
        str | None,
        typer.Option(
            help="The trial log: a folder, or an s3://, gs:// or az:// address; made if it is not there. "
            "[default: trials in --out]",
            rich_help_panel=options.WHERE,
        ),
    ] = None,
    shard: options.Part = "0/1",
    json: options.Json = False,
) -> None:
    """Train a network: choose settings on val, train them again on train + val, score test once, keep the trial.

    Killed or interrupted, the same command goes on at the last checkpoint; runs and trials that have ended are not
    repeated. Several GPUs: torchrun --nproc-per-node N -m penultimate train ... --device cuda

    \b
    penultimate train photos/ -m resnet50.a1_in1k --out runs/ --grid quick --device cuda
    penultimate train photos/ -m resnet50 --init random --out runs/ --grid paper-scratch --shard 0/4
    penultimate train photos/ -m resnet18 --out runs/ --steps 1250,5000 --set label_smoothing=0.1 --set logs=tensorboard
    penultimate train photos/ -m tf_efficientnet_lite0 --weights package --out runs/ --learning-rate 0.01 \\
        --steps 300 --batch-size 64 --size 96
    """
    train_options = TrainOptions.of(settings)
    job = train_options.part(TrainJob)
    refuse_to_train(model)  # a wrong name is known before any image is read
    check_source(weights)
    check_weights_of(model, weights=weights)
    partition = Partition.parse(shard)
    image_set = load_labelled_images(images, root=root, seed=job.seed, **train_options.part(ImageOptions).model_dump())
    request = BackboneRequest(model=model, weights=weights, seed=job.seed)
    with open_resources(job, report=TrainingProgress(), log=log) as resources:
        if resources.world.is_main:
            log(summary_of(image_set))
        results = train_job(image_set, request, job, resources, out=out, trials=trials, partition=partition)
        rows = [_row(result.trial, result.folder) for result in results if result.trial is not None]
        if resources.world.is_main:
            _print(rows, json=json)


_COLUMNS = {
    "dataset": "dataset",
    "backbone": "backbone",
    "method": "method",
    "steps": "steps",
    "shots": "shots",
    "seed": "seed",
    "metric": "metric",
    "value": "test %",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "run": "run",
}


def _print(rows: list[dict[str, Any]], *, json: bool) -> None:
    if json:
        print_json(rows)
    else:
        print_table([row | {"value": f"{100 * row['value']:.2f}"} for row in rows], _COLUMNS)


def _row(trial: Trial, folder: Path | None) -> dict[str, Any]:
    return {
        "dataset": trial.dataset,
        "backbone": trial.backbone,
        "method": trial.method,
        "steps": trial.settings["steps"],
        "shots": trial.settings["shots"],
        "seed": trial.seed,
        "metric": trial.metric,
        "value": trial.value,
        **trial.chosen,
        "n_test": trial.num_test,
        "trial": trial.id,
        "run": None if folder is None else str(folder),
    }
