"""``penultimate train``: fine-tune a network or train it from scratch, by the paper's protocol."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from penultimate.cli.options import DatasetName, PreprocessOption
from penultimate.cli.output import print_json, print_table, say
from penultimate.cli.training_progress import TrainingProgress
from penultimate.engine.backbones.catalog import refuse_if_no_backbone
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.weights import check_source
from penultimate.engine.images.decode.factory import default_decoder
from penultimate.engine.images.load import load_images
from penultimate.engine.runtime.devices import dtype_named
from penultimate.engine.train.grid import WHOLE, Shard
from penultimate.engine.train.runs.run import Means
from penultimate.engine.train.search import Search
from penultimate.engine.train.settings import Starts, TrainSettings, grid_of, logged_search
from penultimate.engine.train.world import world_from_launcher
from penultimate.store.errors import InputError
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog


def train(
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="A folder, a CSV or Parquet manifest, or a dataset's name.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="A timm name, `arch` or `arch.tag`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs, one below it each; made if it is not there.")],
    trials: Annotated[
        str | None,
        typer.Option(
            "--trials", help="The trial log: a folder, or an s3://, gs:// or az:// address; default: trials in --out."
        ),
    ] = None,
    init: Annotated[
        Literal["pretrained", "random"], typer.Option(help="Fine-tune --weights, or train from scratch.")
    ] = "pretrained",
    weights: Annotated[
        str, typer.Option(help="timm, package, a .safetensors or .pth file, or the folder of a run of this command.")
    ] = "timm",
    root: Annotated[Path | None, typer.Option(help="Where a dataset named in IMAGES lies.")] = None,
    name: DatasetName = None,
    grid: Annotated[
        str | None, typer.Option(help="paper-finetune, paper-scratch or quick: learning rates x weight decays.")
    ] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option("--learning-rate", help="In place of the grid's; repeats.")
    ] = None,
    weight_decay: Annotated[
        list[float] | None,
        typer.Option("--weight-decay", help="The paper's, divided by the learning rate before use; repeats."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates a run; default: the grid's, or 20,000.")] = None,
    budgets: Annotated[
        str | None, typer.Option(help="Comma-separated --steps, each tuned on its own: 4882,9765,19531.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Images an update, over all devices; default 256.")
    ] = None,
    warmup: Annotated[int, typer.Option(help="Updates of linear warm-up.")] = 0,
    loss: Annotated[
        Literal["softmax", "sigmoid"] | None, typer.Option(help="Default: sigmoid where images have several labels.")
    ] = None,
    label_smoothing: Annotated[float, typer.Option(help="Share of the target spread over all classes.")] = 0.0,
    dropout: Annotated[float | None, typer.Option(help="Before the classifier; default: the network's own.")] = None,
    auxiliary_head: Annotated[
        bool, typer.Option("--auxiliary-head", help="Train the network's auxiliary classifiers along.")
    ] = False,
    batch_norm_scale: Annotated[
        bool, typer.Option("--batch-norm-scale/--no-batch-norm-scale", help="Whether batch norm learns its scale.")
    ] = True,
    crop_scale: Annotated[
        float, typer.Option("--crop-scale", help="Least share of the image's area that a random crop covers.")
    ] = 0.08,
    ema: Annotated[
        float | None, typer.Option(help="Decay of a moving average of the weights, which is then evaluated.")
    ] = None,
    preprocess: PreprocessOption = "paper",
    size: Annotated[int | None, typer.Option(help="Pixels of the square input; default: the network's own.")] = None,
    decoder: Annotated[
        Literal["dali", "dali-gpu", "pillow"] | None,
        typer.Option(help="Default: dali-gpu with --device cuda, dali otherwise, pillow where there is no Linux."),
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the network trains.")] = "cpu",
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="What the network computes in; weights stay float32."),
    ] = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the training step.")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last/--no-channels-last", help="Memory layout of images and weights.")
    ] = True,
    shots: Annotated[
        str | None, typer.Option(help="Training images a class, e.g. 1,2,5,10; implies --no-retrain.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trials of seeds SEED, SEED + 1 ...; the splits stay.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the split, where none is given, and of everything drawn.")] = 0,
    shard: Annotated[str | None, typer.Option(help="i/n: only this part of the runs; then once more without.")] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain/--no-retrain", help="Train the chosen settings again on train + val.")
    ] = True,
    eval_every: Annotated[int | None, typer.Option(help="Updates between evaluations; default: a twentieth.")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Updates between checkpoints.")] = 500,
    log: Annotated[
        list[str] | None, typer.Option("--log", help="tensorboard, mlflow or wandb beside log.jsonl; repeats.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-j", min=1, help="Decoding threads.")] = 2,
    val_fraction: Annotated[float, typer.Option(help="Share of a class held out for val, where no split is given.")] = (
        0.2
    ),
    test_fraction: Annotated[
        float, typer.Option(help="Share of a class held out for test, where no split is given.")
    ] = 0.2,
    label_column: Annotated[str, typer.Option(help="Column of a manifest that holds the label.")] = "label",
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Samples of a manifest have several labels, separated by |.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table; fractions, not percent.")] = (
        False
    ),
) -> None:
    """Train a network: choose settings on val, train them again on train + val, score test once, keep the trial.

    Killed or interrupted, the same command goes on at the last checkpoint; runs and trials that have ended are not
    repeated. Several GPUs: torchrun --nproc-per-node N -m penultimate train ... --device cuda

    \b
    penultimate train photos/ -m resnet50.a1_in1k --out runs/ --grid quick --device cuda
    penultimate train photos/ -m resnet50 --init random --out runs/ --grid paper-scratch --shard 1/4
    penultimate train photos/ -m tf_efficientnet_lite0 --weights package --out runs/ --learning-rate 0.01 \\
        --steps 300 --batch-size 64 --size 96
    """
    chosen_from = grid_of(grid, learning_rate, weight_decay)
    refuse_if_no_backbone(model)
    check_source(weights)
    image_set = load_images(
        images,
        root=root,
        seed=seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        label_column=label_column,
        multi_label=multi_label,
    )
    image_set = image_set if name is None else replace(image_set, name=name)
    with world_from_launcher(device) as world:
        dtype_named(precision, world.device)
        asked = TrainSettings(
            init=init,
            grid=chosen_from,
            batch_size=batch_size,
            retrain=retrain,
            warmup_steps=warmup,
            loss=loss,
            label_smoothing=label_smoothing,
            dropout=dropout,
            auxiliary_head=auxiliary_head,
            batch_norm_scale=batch_norm_scale,
            crop_scale=crop_scale,
            ema_decay=ema,
            preprocess=preprocess,
            size=size,
            decoder=decoder or default_decoder(device),
            precision=precision,
            channels_last=channels_last,
            compile=compile,
            eval_every=eval_every,
        )
        trials_asked = [
            replace(asked, steps=budget, shots=few, seed=seed + number)
            for budget in (_numbers(budgets) if budgets else [steps])
            for few in (_numbers(shots) if shots else [None])
            for number in range(seeds)
        ]
        starts = Starts(BackboneRequest(model=model, weights=weights, seed=seed))
        searches = [settings.search(image_set, starts.of(settings)) for settings in trials_asked]
        means = Means(
            world=world,
            num_workers=workers,
            checkpoint_every=checkpoint_every,
            logs=tuple(log or ()),
            report=TrainingProgress(),
        )
        rows = _answer(searches, out, trials or str(out / "trials"), means, Shard.parse(shard) if shard else WHOLE)
    if world.is_main and json:
        print_json(rows)
    elif world.is_main:
        shown = [row | {"value": f"{100 * row['value']:.2f}"} for row in rows]
        print_table(shown, _COLUMNS)


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


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"expected whole numbers with commas, such as 1,2,5,10; got {text!r}") from error


def _answer(searches: Sequence[Search], out: Path, trials: str, means: Means, shard: Shard) -> list[dict[str, Any]]:
    """Rows of the trials there are now; says on stderr what is still missing, and why."""
    if means.world.is_main:
        out.mkdir(parents=True, exist_ok=True)
        TrialLog.create(trials)
    means.world.barrier()
    log = TrialLog(trials)
    answers = [logged_search(search, out, log, means, shard=shard, say=say) for search in searches]
    return [_row(answer.trial, answer.folder) for answer in answers if answer.trial is not None]


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
