"""Options that several verbs share, and the backbones they ask for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from penultimate.engine.backbones.catalog import match_models
from penultimate.engine.backbones.compilation import decide_compile
from penultimate.engine.backbones.devices import PrecisionName
from penultimate.engine.backbones.timm_backbone import PreprocessKind, TimmBackbone, load_backbone
from penultimate.engine.extract import rows_a_batch
from penultimate.engine.threads import ThreadShare, default_batch_size

Images = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES",
        help="A folder of images, of tars (WebDataset) or of Parquet files with images in them; a CSV or Parquet "
        "manifest; a .npz or .npy; a dataset's name. Tars and Parquet files also by glob or `set-{000..009}.tar`.",
    ),
]
Models = Annotated[
    list[str], typer.Option("--model", "-m", help="A timm name, `arch` or `arch.tag`, or a glob; repeats.")
]
Weights = Annotated[
    str,
    typer.Option(
        help="timm: downloaded from its hub. package: an installed weight package. random: seeded by --seed. "
        "Else a .safetensors or .pth file."
    ),
]
Root = Annotated[Path | None, typer.Option(help="Where a dataset named in IMAGES lies.")]
PreprocessOption = Annotated[
    PreprocessKind,
    typer.Option(help="paper: the whole image to the network's input. timm: its own resize and centre crop."),
]
DecoderName = Annotated[
    Literal["dali", "dali-gpu", "pillow"] | None,
    typer.Option(help="Default: dali on Linux, pillow elsewhere; dali-gpu with --device cuda."),
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the network runs.")]
Precision = Annotated[
    PrecisionName,
    typer.Option(
        help="What the network computes in. float32 is on every processor; bfloat16 is faster where there are units "
        "for it and cost no accuracy on Caltech-101 and CIFAR-10. `penultimate parity` tells what it changes on IMAGES."
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Default: compiled where the number of images makes it pay."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        min=1,
        help="Images a forward pass, lowered to a power of two. Default: 8 on a CPU, 256 on a GPU.",
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Decoding threads. Default: one a core.")]


def rows_a_pass(batch_size: int | None, device: str) -> int:
    """Images a forward pass, as ``extract`` will have them: networks are compiled for just that number."""
    return rows_a_batch(batch_size or default_batch_size(device))


def prepared_backbones(
    models: Sequence[str],
    *,
    weights: str,
    preprocess: PreprocessKind,
    device: str,
    precision: PrecisionName,
    seed: int,
    num_images: Callable[[TimmBackbone], int],
    batch_size: int,
    threads: ThreadShare,
    compiled: bool | None,
) -> tuple[list[TimmBackbone], dict[str, str]]:
    """The networks asked for, compiled where that was asked or pays; and by name, what was decided, said on stderr.

    ``num_images`` of a network is how many it is to embed; one that has none is not compiled.
    """
    reasons = {}
    with threads.in_force():
        backbones = [
            load_backbone(name, weights=weights, preprocess=preprocess, device=device, precision=precision, seed=seed)
            for name in match_models(models)
        ]
        for backbone in backbones:
            decision = decide_compile(
                backbone, num_images(backbone), batch_size=batch_size, replicas=threads.replicas, asked=compiled
            )
            typer.echo(decision.reason, err=True)
            if decision.compile:
                typer.echo(f"{backbone.name}: compiled in {backbone.compile(batch_size):.0f} s", err=True)
            reasons[backbone.name] = decision.reason
    return backbones, reasons
