"""``penultimate models``: list networks with their sizes and ImageNet accuracy."""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from penultimate.cli import options
from penultimate.cli.output import log, print_json, print_table
from penultimate.engine.backbones.catalog import ModelRow, describe, listed, match_models, model_set
from penultimate.engine.backbones.imagenet import imagenet_table

_COLUMNS = {
    "network": "network",
    "model": "model",
    "input_size": "input px",
    "feature_dim": "dim",
    "parameters": "parameters",
    "imagenet": "ImageNet %",
    "penultimate": "penultimate",
    "switches": "switches",
}
_BUILT = 40
"""Largest number of networks that are built by default to read their sizes, a fraction of a second each."""

_WITH_READOUTS = 3
"""Largest number of networks of which a table of readouts is printed below; ``--json`` has those of all."""


def models(
    pattern: Annotated[
        list[str] | None, typer.Argument(metavar="PATTERN...", help="Names, globs, or files that list them.")
    ] = None,
    set_: Annotated[
        str | None, typer.Option("--set", help="A set of networks: kornblith16, or a .txt, .csv or .yaml file.")
    ] = None,
    sizes: Annotated[
        bool | None,
        typer.Option(help=f"Build each network for its dimension and parameters; by default for up to {_BUILT}."),
    ] = None,
    imagenet: Annotated[
        Path | None, typer.Option(help="CSV with columns model and top1 (per cent), before the table that comes along.")
    ] = None,
    template: Annotated[
        bool, typer.Option("--template", help="Print a file of networks of your own to begin with, and leave.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List networks by name, glob or set: input size, feature dimension, parameters without the classifier, ImageNet.

    Any network of timm is one; a name is `arch` or `arch.tag`. A network of your own is `package.module:function`,
    which is loaded and checked. Without a pattern or a set, all architectures. Of up to three networks the readouts for
    `extract --readout` are listed, with their dimensions; --json has them of all.

    \b
    penultimate models --set kornblith16
    penultimate models 'resnet50.*' 'tf_efficientnet_lite*'
    penultimate models --json 'vit_small*'
    penultimate models --template > my_networks.py; penultimate models my_networks:resnet18
    """
    if template:
        typer.echo(
            files("penultimate.engine.backbones.own").joinpath("template.py").read_text(encoding="utf-8"), nl=False
        )
        return
    names = list(dict.fromkeys([*(model_set(set_) if set_ else []), *match_models(pattern or [])]))
    if not pattern and not set_:
        names = match_models(["*"])
    describes = len(names) <= _BUILT if sizes is None else sizes
    table = imagenet_table(imagenet)
    rows = [describe(name, table) if describes else listed(name, table) for name in names]
    for row in rows:
        for doubt in row.warnings:
            log(f"warning: {row.model}: {doubt}")
    if json:
        print_json([asdict(row) for row in rows])
        return
    cells = [_cells(row) for row in rows]
    print_table(cells, {field: heading for field, heading in _COLUMNS.items() if any(row[field] for row in cells)})
    if len(rows) <= _WITH_READOUTS:
        readouts = [{"model": row.model, **each} for row in rows for each in _readouts(row.readouts or {})]
        print_table(readouts, {column: column for column in ("model", "readout", "dim")})


def _cells(row: ModelRow) -> dict[str, Any]:
    percent = None if row.imagenet_top1 is None else f"{100 * row.imagenet_top1:.2f}"
    return asdict(row) | {"imagenet": percent, "switches": ", ".join(row.switches)}


def _readouts(dims: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a row for each readout with its dimension; successive layers of one dimension share a row."""
    runs = [[*run] for _, run in groupby(dims, key=lambda name: (name.partition(":")[0], dims[name]))]
    return [{"readout": run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}", "dim": dims[run[0]]} for run in runs]
