"""``penultimate settings``: list every option of a verb, with its type, range, default and meaning."""

from typing import Annotated

import typer

from penultimate.cli import options
from penultimate.cli.bench import BenchOptions
from penultimate.cli.extract import ExtractOptions
from penultimate.cli.imagenet_eval import ImageNetSettings
from penultimate.cli.output import print_json, print_table
from penultimate.cli.parity import ParityOptions
from penultimate.cli.predict import PredictOptions
from penultimate.cli.settings_option import described
from penultimate.cli.train import TrainOptions
from penultimate.engine.audit.settings import AuditSettings
from penultimate.engine.probe.settings import ProbeJob
from penultimate.engine.runtime.strict import Strict
from penultimate.store.errors import UnknownNameError

MODELS: dict[str, type[Strict]] = {
    "extract": ExtractOptions,
    "bench": BenchOptions,
    "parity": ParityOptions,
    "probe": ProbeJob,
    "predict": PredictOptions,
    "train": TrainOptions,
    "audit": AuditSettings,
    "imagenet-eval": ImageNetSettings,
}
"""Verb -> the model that declares its options."""


def settings(
    verb: Annotated[str, typer.Argument(metavar="VERB", help=f"One of: {', '.join(MODELS)}.")],
    json: options.Json = False,
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
