"""The group of verbs ``penultimate bench``."""

import typer

from penultimate.cli.bench import extract
from penultimate.cli.grouped_help import GroupedCommand

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Measure on this machine: extraction, decoding, the store, probes and training, each beside its peers.",
)
for name, verb in {
    "extract": extract.bench_extract,
}.items():
    app.command(name, cls=GroupedCommand)(verb)
