"""``penultimate bench store``: measure writing, reading and looking up features in a store."""

from typing import Annotated

import typer

from penultimate.cli import options
from penultimate.cli.bench.output import TURNS, BenchProgress, Out, command_line, show
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.bench.store import StoreBench
from penultimate.engine.bench.store import bench_store as measure_store

Location = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER_OR_ADDRESS",
        help="Where to write: a folder, or an s3://, gs:// or az:// address. What is written is removed.",
    ),
]


@with_settings(StoreBench, flags={options.WHAT: ("rows", "dim"), options.HOW: TURNS})
def bench_store(location: Location, settings: Given, out: Out = None, json: options.Json = False) -> None:
    """Write, read and look up features in a store, beside plain files or objects of the same size.

    \b
    penultimate bench store .
    penultimate bench store /mnt/disk --rows 100000 --dim 2048 --out store.md
    penultimate bench store 's3://bucket/scratch?endpoint=https://minio.lab:9000' --rows 8192
    """
    how = StoreBench.of(settings)
    with BenchProgress() as progress:
        report = measure_store(location, how, command=command_line(), progress=progress)
    show(report, out=out, json=json)
