"""``penultimate datasets``: list the paper's datasets and check a copy against the published numbers."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from penultimate.cli import options
from penultimate.cli.output import print_json, print_table
from penultimate.engine.images.datasets.paper12 import PAPER12, Check, check_dataset, dataset_named, download_dataset

app = typer.Typer(
    rich_markup_mode=None,
    invoke_without_command=True,
    help="The paper's twelve datasets by name: list, check.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name that `penultimate datasets` lists.")]

_COLUMNS = ("dataset", "title", "classes", "train", "val", "test", "metric", "val_given", "download")
_MISSING_SHOWN = 10


@app.callback()
def list_datasets(context: typer.Context, json: options.Json = False) -> None:
    """List the datasets that verbs take by name, with --root for the folder that holds them.

    \b
    penultimate datasets
    penultimate datasets check pets --root data/pets
    penultimate extract pets --root data/pets --store features.zarr --model resnet50.a1_in1k
    """
    if context.invoked_subcommand is not None:
        return
    rows = [
        {
            "dataset": name,
            "title": dataset.title,
            "classes": dataset.num_classes,
            **dataset.sizes,
            "metric": dataset.metric,
            "val_given": dataset.val_given,
            "download": bool(dataset.downloads),
            "layout": dataset.layout,
            "where": dataset.where,
        }
        for name, dataset in PAPER12.items()
    ]
    if json:
        print_json(rows)
    else:
        print_table(rows, {column: column.replace("_", " ") for column in _COLUMNS})


@app.command()
def check(
    name: Name,
    root: Annotated[Path, typer.Option("--root", help="Folder that holds the dataset.")],
    download: Annotated[
        bool, typer.Option("--download", help="Fetch it from its publisher and unpack it into --root first.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Count a copy's images a split and class against the published numbers and name what is missing.

    Exit code 1 if anything differs. Where --download cannot be done, one line says where to get the dataset and how
    the folder must look.

    \b
    penultimate datasets check caltech101 --root data/caltech101
    penultimate datasets check pets --root data/pets --download
    penultimate datasets check birdsnap --root data/birdsnap --json | jq .missing
    """
    if download:
        download_dataset(name, root)
    found = check_dataset(name, root)
    if json:
        print_json(asdict(found))
    else:
        print_table([_row(part, found.expected, found.found) for part in found.expected], _CHECK_COLUMNS)
        for class_name, counts in found.per_class.items():
            typer.echo(f"{class_name}: {', '.join(f'{counts.get(split, 0)} {split}' for split in _SPLITS)}")
        for id_ in found.missing[:_MISSING_SHOWN]:
            typer.echo(f"missing: {id_}", err=True)
    if not found.complete:
        typer.echo(f"{dataset_named(name).title} at {root} is not as published: {_differing(found)}", err=True)
        raise typer.Exit(code=1)


_SPLITS = ("train", "val", "test")
_CHECK_COLUMNS = {"part": "part", "expected": "published", "found": "found", "as_published": "as published"}


def _row(part: str, expected: Mapping[str, int], found: Mapping[str, int]) -> dict[str, Any]:
    return {
        "part": part,
        "expected": expected[part],
        "found": found[part],
        "as_published": expected[part] == found[part],
    }


def _differing(found: Check) -> str:
    parts = [part for part in found.expected if found.found[part] != found.expected[part]]
    counts = [f"{part} {found.found[part]:,} of {found.expected[part]:,}" for part in parts]
    return ", ".join([*counts, *([f"{len(found.missing):,} listed images missing"] if found.missing else [])])
