"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel

from penultimate.engine.backbones.timm_backbone import PreprocessKind
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.decode.factory import DecoderName
from penultimate.engine.runtime.devices import PrecisionName


def option_of(settings: type[BaseModel], field: str, *names: str) -> Any:
    """Make the flag of a setting, with the help text of its declaration; ``names`` where it has others than its own."""
    return typer.Option(*names, help=settings.model_fields[field].description)


Images = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES",
        help="A folder of images, of tars (WebDataset) or of Parquet files with images in them; a CSV or Parquet "
        "manifest; a .npz or .npy; a dataset's name. Tars and Parquet files also by glob or `set-{000..009}.tar`; "
        "tars also at s3://, gs:// or az://, read in ranges.",
    ),
]
StoreLocation = Annotated[
    str,
    typer.Argument(metavar="STORE", help="A feature store: a folder, or an s3://, gs:// or az:// address."),
]
TrialsLocation = Annotated[
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
PreprocessOption = Annotated[PreprocessKind, option_of(ExtractionSettings, "preprocess")]
DecoderOption = Annotated[DecoderName | None, option_of(ExtractionSettings, "decoder")]
Device = Annotated[Literal["cpu", "cuda"], option_of(ExtractionSettings, "device")]
Precision = Annotated[PrecisionName, option_of(ExtractionSettings, "precision")]
Compile = Annotated[bool | None, option_of(ExtractionSettings, "compile", "--compile/--no-compile")]
BatchSize = Annotated[int | None, option_of(ExtractionSettings, "batch_size", "--batch-size", "-b")]
Workers = Annotated[int | None, option_of(ExtractionSettings, "workers", "--workers", "-j")]
StoredDtype = Annotated[Literal["float32", "float16"], option_of(ExtractionSettings, "dtype")]
ParityOption = Annotated[bool, option_of(ExtractionSettings, "parity", "--parity/--no-parity")]
