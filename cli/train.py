"""``penultimate train``: fine-tune a network or train it from scratch, by the paper's protocol."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from penultimate.cli.output import print_json, print_table
from penultimate.cli.training_progress import TrainingProgress
from penultimate.engine.backbones.devices import dtype_named
from penultimate.engine.backbones.timm_backbone import preprocess_of
from penultimate.engine.images.datasets import load_images
from penultimate.engine.images.decoders import default_decoder
from penultimate.engine.train.grid import WHOLE, Grid, Shard, grid_named
from penultimate.engine.train.network import Start, load_start
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.run import Means
from penultimate.engine.train.search import Outcome, Search, run_search
from penultimate.engine.train.world import world_from_launcher
from penultimate.store.errors import InputError
from penultimate.store.trial import Trial
from penultimate.store.trial_log import TrialLog

_SINGLE = Grid(learning_rates=(0.01,), weight_decays=(0.0,), steps=20_000, batch_size=256)
"""Without --grid."""

_EVALUATIONS = 20
"""Of a run, evenly spaced, where --eval-every is not given."""


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
    ema: Annotated[
        float | None, typer.Option(help="Decay of a moving average of the weights, which is then evaluated.")
    ] = None,
    preprocess: Annotated[
        Literal["paper", "timm"], typer.Option(help="Evaluation on the whole image, or on timm's centre crop.")
    ] = "paper",
    size: Annotated[int | None, typer.Option(help="Pixels of the square input; default: the network's own.")] = None,
    decoder: Annotated[
        Literal["dali", "pillow"] | None, typer.Option(help="Default: dali on Linux, pillow elsewhere.")
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
    named = grid_named(grid) if grid else _SINGLE
    image_set = load_images(
        images,
        root=root,
        seed=seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        label_column=label_column,
        multi_label=multi_label,
    )
    with world_from_launcher(device) as world:
        dtype_named(precision, world.device)
        start = load_start(model, init=init, weights=weights, seed=seed)
        view = preprocess_of(start.model, preprocess)
        recipe = Recipe(
            network=start.network,
            weights=start.digest,
            images=image_set.digest,
            batch_size=named.batch_size if batch_size is None else batch_size,
            preprocess=view if size is None else replace(view, height=size, width=size),
            augmenter=decoder or default_decoder(),
            decoder=decoder or default_decoder(),
            loss=loss or ("sigmoid" if image_set.labels_N.ndim == 2 else "softmax"),
            label_smoothing=label_smoothing,
            dropout=dropout,
            auxiliary_head=auxiliary_head,
            batch_norm_scale=batch_norm_scale,
            precision=precision,
            channels_last=channels_last,
            compile=compile,
            ema_decay=ema,
            eval_every=1,
            seed=seed,
        )
        searches = [
            Search(
                images=image_set,
                start=start if start.pretrained or number == 0 else _drawn(model, weights, seed + number),
                recipe=replace(
                    recipe,
                    seed=seed + number,
                    steps=budget,
                    shots=few,
                    warmup_steps=warmup,
                    eval_every=max(1, budget // _EVALUATIONS) if eval_every is None else eval_every,
                ),
                grid=replace(
                    named,
                    learning_rates=tuple(learning_rate or named.learning_rates),
                    weight_decays=tuple(weight_decay or named.weight_decays),
                ),
                retrain=retrain and few is None,
            )
            for budget in (_numbers(budgets) if budgets else [named.steps if steps is None else steps])
            for few in (_numbers(shots) if shots else [None])
            for number in range(seeds)
        ]
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


def _drawn(model: str, weights: str, seed: int) -> Start:
    return load_start(model, init="random", weights=weights, seed=seed)


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
    rows = []
    for search in searches:
        known = {trial.id: trial for trial in log.trials()} if log.contains(search.trial_id) else {}
        if search.trial_id in known:
            rows.append(_row(known[search.trial_id], None))
            continue
        outcome = run_search(search, out, means, shard=shard)
        if means.world.is_main:
            _say(search, outcome, trials)
            if outcome.trial is not None:
                log.append(outcome.trial)
                rows.append(_row(outcome.trial, outcome.folder))
    return rows


def _say(search: Search, outcome: Outcome, trials: str) -> None:
    name = f"{search.images.name}, {search.start.label}, {search.method}"
    if outcome.folder is None:
        left = f"{outcome.waiting} of {len(search.grid)} runs are still to be done by other shards"
        typer.echo(f"{name}: {left}; then run the same command without --shard", err=True)
    elif outcome.trial is None:
        typer.echo(f"{name}: no test split to score; the network is in {outcome.folder}", err=True)
    else:
        for note in outcome.trial.notes:
            typer.echo(f"{name}: {note}", err=True)
        typer.echo(f"{name}: logged in {trials}; the network is in {outcome.folder}", err=True)


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
