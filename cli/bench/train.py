"""``penultimate bench train``: measure the updates of a training run beside timm's loop."""

from typing import Annotated

import typer

from penultimate.cli import options
from penultimate.cli.bench.output import TURNS, BenchProgress, Out, command_line, show
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.backbones.catalog import refuse_if_no_backbone
from penultimate.engine.backbones.loading.weights import check_source, check_weights_of
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.bench.train import TrainBench
from penultimate.engine.bench.train import bench_train as measure_training

_FLAGS = {
    options.WHAT: ("init", "size", "label_column"),
    options.HOW: ("batch_size --batch-size -b", "updates", "compile", *TURNS),
    options.WHERE: ("device", "precision", "workers --workers -j"),
}


@with_settings(TrainBench, flags=_FLAGS)
def bench_train(
    images: options.Images,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A timm name, `arch` or `arch.tag`.", rich_help_panel=options.WHAT)
    ],
    settings: Given,
    weights: options.Weights = "timm",
    root: options.Root = None,
    out: Out = None,
    json: options.Json = False,
) -> None:
    """Count the updates a second of a training run, beside timm's loop and beside one batch in memory.

    Each is a process of its own and trains the same network on the same images, at the same size, precision and batch,
    with as many decoding workers; they take turns. timm's loop is built from its public pieces, as its train.py is.

    \b
    penultimate bench train photos/ -m resnet50
    penultimate bench train photos/ -m resnet50 --device cuda --precision bfloat16 --seconds 120 --out train.md
    """
    how = TrainBench.of(settings)
    refuse_if_no_backbone(model)  # a wrong name is known before any image is read
    check_source(weights)
    check_weights_of(model, weights=weights)
    request = BackboneRequest(model=model, weights=weights, seed=how.seed)
    with BenchProgress() as progress:
        report = measure_training(images, request, how, command=command_line(), root=root, progress=progress)
    show(report, out=out, json=json)
