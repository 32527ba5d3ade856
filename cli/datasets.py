"""``penultimate datasets``: the datasets that verbs take by name."""

from typing import Annotated

import typer

from penultimate.cli.output import print_json, print_table
from penultimate.engine.images.datasets import DATASETS


def datasets(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the datasets that `extract` takes by name, with --root for the folder that holds them.

    \b
    penultimate datasets
    penultimate extract caltech101 --root data/caltech101 --store features.zarr --model resnet50.a1_in1k
    """
    rows = [{"dataset": name} for name in sorted(DATASETS)]
    if json:
        print_json(rows)
    else:
        print_table(rows, {"dataset": "dataset"})
