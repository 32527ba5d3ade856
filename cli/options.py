"""Declare the options that several verbs have in common. Settings of the engine are declared by their models."""

from pathlib import Path
from typing import Annotated

import typer

from penultimate.engine.runtime.seeds import check_seed

WHAT, HOW, WHERE = "What", "How", "Where, and what is kept"
"""Headings in ``--help``."""

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES...",
        help="A folder of images, of tars (WebDataset) or of Parquet files with images in them; a CSV, TSV, JSON Lines "
        "or Parquet manifest; a .npz or .npy; a dataset's name. Tars and Parquet files also by glob or "
        "`set-{000..009}.tar`; tars, manifests and the images that these name also at s3://, gs:// or az://. Without "
        "labels also images, lists of paths (.txt) and any number of all these.",
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
        "--trials",
        help="The trial log: a folder, or an s3://, gs:// or az:// address; made if it is not there.",
        rich_help_panel=WHERE,
    ),
]
NewStore = Annotated[
    str,
    typer.Option(
        "--store",
        help="The feature store: a folder, or an s3://, gs:// or az:// address; made if it is not there.",
        rich_help_panel=WHERE,
    ),
]
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        help="A timm name, `arch` or `arch.tag`, a glob, or `package.module:function` of your own (see `models "
        "--template`); repeats.",
        rich_help_panel=WHAT,
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="timm: downloaded from its hub. package: an installed weight package. random: seeded by --seed. "
        "Else a .safetensors or .pth file, or the folder of a run of `penultimate train`.",
        rich_help_panel=WHAT,
    ),
]
DatasetName = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of these images in the store and in tables; by default their folder's.",
        rich_help_panel=WHAT,
    ),
]
Root = Annotated[Path | None, typer.Option(help="Folder of a dataset that IMAGES gives by name.", rich_help_panel=WHAT)]
Seed = Annotated[
    int,
    typer.Option(
        help="Seed of all that is drawn at random, and of splits that are not given.",
        rich_help_panel=WHAT,
        callback=check_seed,
    ),
]
Part = Annotated[
    str,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do only part I of N, counted from 0: N processes, one part each, come to what one would.",
        rich_help_panel=WHERE,
    ),
]
DatasetGlob = Annotated[str, typer.Option(help="Glob over the datasets in the store.", rich_help_panel=WHAT)]
BackboneGlob = Annotated[str, typer.Option(help="Glob over the backbones in the store.", rich_help_panel=WHAT)]
ReadoutGlob = Annotated[str, typer.Option(help="Glob over the readouts in the store.", rich_help_panel=WHAT)]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON instead of a table; fractions, not percent.", rich_help_panel=WHERE),
]
