"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from penultimate.engine.backbones.timm_backbone import PreprocessKind
from penultimate.engine.runtime.devices import PrecisionName

Images = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES",
        help="A folder of images, of tars (WebDataset) or of Parquet files with images in them; a CSV or Parquet "
        "manifest; a .npz or .npy; a dataset's name. Tars and Parquet files also by glob or `set-{000..009}.tar`; "
        "tars also at s3://, gs:// or az://, read in ranges.",
    ),
]
StorePlace = Annotated[
    str,
    typer.Argument(metavar="STORE", help="A feature store: a folder, or an s3://, gs:// or az:// address."),
]
TrialsPlace = Annotated[
    str, typer.Argument(metavar="TRIALS", help="A trial log: a folder, or an s3://, gs:// or az:// address.")
]
NewTrials = Annotated[
    str,
    typer.Option(
        "--trials", help="The trial log: a folder, or an s3://, gs:// or az:// address; made if it is not there."
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
DatasetName = Annotated[
    str | None,
    typer.Option("--name", help="What to call these images in the store and in tables. Default: by their folder."),
]
Root = Annotated[Path | None, typer.Option(help="Where a dataset named in IMAGES lies.")]
PreprocessOption = Annotated[
    PreprocessKind,
    typer.Option(
        help="paper: the whole image to the network's input. timm: its own resize and centre crop. paper-exif and "
        "timm-exif: the same, of the image turned as its EXIF orientation says, which is otherwise ignored."
    ),
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
