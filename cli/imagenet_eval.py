"""``penultimate imagenet-eval``: the x axis, measured: top-1 and top-5 on a local ImageNet validation folder."""

import csv
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from penultimate.cli.output import print_json, print_table
from penultimate.cli.progress import ImageProgress
from penultimate.engine.backbones.catalog import match_models
from penultimate.engine.backbones.imagenet import imagenet_top1
from penultimate.engine.backbones.imagenet_eval import ImageNetScore, imagenet_images
from penultimate.engine.backbones.imagenet_eval import imagenet_eval as evaluate
from penultimate.engine.backbones.timm_backbone import PreprocessKind, load_backbone
from penultimate.engine.images.decode.factory import default_decoder, make_decoder
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.runtime.devices import DEFAULT_PRECISION, PrecisionName

_COLUMNS = {"model": "model", "top1": "top-1 %", "top5": "top-5 %", "printed": "printed %", "num_images": "n"}


def imagenet_eval(
    root: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Validation images in ImageNet's class folders, or with labels.csv."),
    ],
    model: Annotated[
        list[str], typer.Option("--model", "-m", help="A timm name, a glob, a set (kornblith16) or a list; repeats.")
    ],
    weights: Annotated[
        str, typer.Option(help="timm, package, or a .safetensors or .pth file that holds a classifier.")
    ] = "timm",
    preprocess: Annotated[
        PreprocessKind,
        typer.Option(help="timm: its own resize and crop, as printed accuracies are. paper: see extract."),
    ] = "timm",
    decoder: Annotated[
        Literal["dali", "pillow"] | None, typer.Option(help="Default: dali on Linux, pillow elsewhere.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the network runs.")] = "cpu",
    precision: Annotated[PrecisionName, typer.Option(help="What the network computes in.")] = DEFAULT_PRECISION,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images a forward pass.")] = 64,
    workers: Annotated[int, typer.Option("--workers", "-j", min=1, help="Decoding threads.")] = 2,
    output: Annotated[
        Path | None, typer.Option(help="Also write a CSV that `models --imagenet` takes before its own table.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table; fractions, not percent.")] = (
        False
    ),
) -> None:
    """Score networks with their own classifiers on ImageNet's validation images, beside what is printed of them.

    \b
    penultimate imagenet-eval imagenet/val --model resnet50.tv_in1k --device cuda --precision bfloat16
    penultimate imagenet-eval imagenet/val --model kornblith16 --output measured.csv
    """
    names = match_models(model)
    images = imagenet_images(root)
    scores = []
    for name in names:
        backbone = load_backbone(name, weights=weights, preprocess=preprocess, device=device, precision=precision)
        with ImageProgress(backbone.name) as report:
            decodes = make_decoder(decoder or default_decoder(), num_workers=workers)
            scores.append(evaluate(backbone, images, decodes, batch_size=batch_size, report=report))
    rows = [_row(score) for score in scores]
    if output is not None:
        _write(output, rows)
    if json:
        print_json(rows)
    else:
        print_table([_cells(row) for row in rows], _COLUMNS)
    for id_, reason in scores[0].failed.items():
        typer.echo(f"left out {id_}: {reason}", err=True)


def _row(score: ImageNetScore) -> dict[str, Any]:
    return {
        "model": score.model,
        "top1": score.top1,
        "top5": score.top5,
        "printed": imagenet_top1().get(score.model),
        "num_images": score.num_images,
        "failed": len(score.failed),
        "images": score.images,
        "preprocess": score.preprocess,
        "machine": machine(),
    }


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    percent = {field: f"{100 * row[field]:.2f}" for field in ("top1", "top5", "printed") if row[field] is not None}
    return {field: percent.get(field, row[field]) for field in _COLUMNS}


def _write(output: Path, rows: list[dict[str, Any]]) -> None:
    """Per cent, as the table of printed accuracies."""
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "top1", "top5", "num_images", "images", "preprocess"])
        for row in rows:
            percent = [f"{100 * row[field]:.3f}" for field in ("top1", "top5")]
            writer.writerow([row["model"], *percent, row["num_images"], row["images"], row["preprocess"]])
