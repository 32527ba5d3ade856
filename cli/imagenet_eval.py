"""``penultimate imagenet-eval``: measure top-1 and top-5 on a local ImageNet validation folder."""

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import typer

from penultimate.cli import options
from penultimate.cli.output import print_json, print_table
from penultimate.cli.output_paths import file_to_write
from penultimate.cli.progress import ImageProgress
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.backbones.catalog import match_models
from penultimate.engine.backbones.imagenet import imagenet_top1
from penultimate.engine.backbones.imagenet_eval import ImageNetScore, imagenet_images
from penultimate.engine.backbones.imagenet_eval import imagenet_eval as evaluate
from penultimate.engine.backbones.timm_backbone import PreprocessKind, load_backbone
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.runtime.whole_file import write_whole

_COLUMNS = {"model": "model", "top1": "top-1 %", "top5": "top-5 %", "printed": "printed %", "num_images": "n"}


class ImageNetSettings(ExtractionSettings):
    """Options for scoring networks with their own classifiers."""

    preprocess: PreprocessKind = "timm"
    """``timm``: its own resize and centre crop, as printed accuracies are. ``paper``: the whole image to the network's
    input."""


_FLAGS = {
    options.HOW: ("preprocess", "decoder", "precision", "batch_size --batch-size -b"),
    options.WHERE: ("device", "workers --workers -j"),
}


@with_settings(ImageNetSettings, flags=_FLAGS)
def imagenet_eval(
    root: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Validation images in ImageNet's class folders, or with labels.csv."),
    ],
    model: options.Models,
    settings: Given,
    weights: options.Weights = "timm",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Also write a CSV that `models --imagenet` takes before its own table.",
            rich_help_panel=options.WHERE,
            callback=file_to_write,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Score networks with their own classifiers on ImageNet's validation images, beside what is printed of them.

    \b
    penultimate imagenet-eval imagenet/val --model resnet50.tv_in1k --device cuda --precision bfloat16
    penultimate imagenet-eval imagenet/val --model kornblith16 --output measured.csv
    """
    how = ImageNetSettings.of(settings)
    names = match_models(model)
    images = imagenet_images(root)
    scores = []
    for name in names:
        backbone = load_backbone(
            name, weights=weights, preprocess=how.preprocess, device=how.device, precision=how.precision
        )
        with ImageProgress(backbone.name) as report:
            scores.append(evaluate(backbone, images, how.make_decoder(), batch_size=how.rows_per_batch, report=report))
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
    """Write the scores as CSV in per cent, in the format of the table of printed accuracies."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "top1", "top5", "num_images", "images", "preprocess"])
    for row in rows:
        percent = [f"{100 * row[field]:.3f}" for field in ("top1", "top5")]
        writer.writerow([row["model"], *percent, row["num_images"], row["images"], row["preprocess"]])
    write_whole(output, text.getvalue())
