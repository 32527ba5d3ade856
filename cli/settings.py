"""``penultimate settings``: every option that a verb takes, with its type, range, default and meaning."""

from typing import Annotated

import typer

from penultimate.cli.output import print_json, print_table
from penultimate.cli.settings_option import described
from penultimate.engine.runtime.strict import Strict
from penultimate.engine.train.sweep import TrainJob
from penultimate.store.errors import UnknownNameError

MODELS: dict[str, type[Strict]] = {"train": TrainJob}
"""Verb -> what declares its options."""


def settings(
    verb: Annotated[str, typer.Argument(metavar="VERB", help=f"One of: {', '.join(MODELS)}.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the settings of a verb: those that have a flag of their own, and those that only --set gives.

    \b
    penultimate settings train
    penultimate train photos/ --model resnet50 --out runs/ --set momentum=0.95 --set learning_rates=[0.01,0.1]
    """
    if verb not in MODELS:
        raise UnknownNameError("verb with settings", verb, MODELS)
    rows = described(MODELS[verb])
    if json:
        print_json(rows)
    else:
        print_table(rows, {column: column for column in ("name", "type", "default", "help")})
