"""``penultimate train``: fine-tune a network or train it from scratch, by the paper's protocol."""

from pathlib import Path
from typing import Annotated, Any

import typer

from penultimate.cli import options
from penultimate.cli.output import log, print_json, print_table
from penultimate.cli.settings_option import Given, with_settings
from penultimate.cli.training_progress import TrainingProgress
from penultimate.engine.backbones.catalog import refuse_if_no_backbone
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.weights import check_source
from penultimate.engine.images.load import load_images
from penultimate.engine.runtime.partition import Partition
from penultimate.engine.train.api import train_job
from penultimate.engine.train.runs.resources import open_resources
from penultimate.engine.train.sweep import TrainJob
from penultimate.store.trials.trial import Trial

_WHAT, _HOW, _WHERE = "What is trained", "How it is trained", "Where it runs, and what is kept"

_FLAGS = {
    _WHAT: ("init", "size", "shots", "seed"),
    _HOW: (
        "grid",
        "learning_rates --learning-rate",
        "weight_decays --weight-decay",
        "steps",
        "batch_size --batch-size -b",
        "retrain",
    ),
    _WHERE: ("device", "precision", "decoder", "workers --workers -j"),
}
"""Settings that people use daily; ``--set`` has all."""


@with_settings(TrainJob, flags=_FLAGS)
def train(
    images: options.Images,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A timm name, `arch` or `arch.tag`.", rich_help_panel=_WHAT)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder of the runs, one below it for each; made if absent.", rich_help_panel=_WHERE
        ),
    ],
    settings: Given,
    weights: Annotated[
        str,
        typer.Option(
            help="Weights to fine-tune: timm, package, a .safetensors or .pth file, or the folder of a run of this "
            "command.",
            rich_help_panel=_WHAT,
        ),
    ] = "timm",
    root: Annotated[
        Path | None, typer.Option(help="Where a dataset named in IMAGES lies.", rich_help_panel=_WHAT)
    ] = None,
    label_column: Annotated[
        str, typer.Option(help="Column of a manifest that holds the label.", rich_help_panel=_WHAT)
    ] = "label",
    multi_label: Annotated[
        bool,
        typer.Option(
            "--multi-label", help="Samples of a manifest have several labels, separated by |.", rich_help_panel=_WHAT
        ),
    ] = False,
    val_fraction: Annotated[
        float,
        typer.Option(help="Fraction of each class held out for val, where no split is given.", rich_help_panel=_WHAT),
    ] = 0.2,
    test_fraction: Annotated[
        float,
        typer.Option(help="Fraction of each class held out for test, where no split is given.", rich_help_panel=_WHAT),
    ] = 0.2,
    trials: Annotated[
        str | None,
        typer.Option(
            help="The trial log: a folder, or an s3://, gs:// or az:// address. [default: trials in --out]",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Do only part I of N of the runs, from 0; the last part to end, or one call more, makes the trial.",
            rich_help_panel=_WHERE,
        ),
    ] = "0/1",
    json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON instead of a table; fractions, not percent.", rich_help_panel=_WHERE),
    ] = False,
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
    job = TrainJob.of(settings)
    refuse_if_no_backbone(model)
    check_source(weights)
    partition = Partition.parse(shard)
    image_set = load_images(
        images,
        root=root,
        seed=job.seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        label_column=label_column,
        multi_label=multi_label,
    )
    request = BackboneRequest(model=model, weights=weights, seed=job.seed)
    with open_resources(job, report=TrainingProgress(), log=log) as resources:
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
