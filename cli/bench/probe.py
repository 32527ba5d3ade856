"""``penultimate bench probe``: measure the probe of stored or drawn features beside scikit-learn and cuML."""

from contextlib import ExitStack
from typing import Annotated

import typer

from penultimate.cli import options
from penultimate.cli.bench.output import TURNS, BenchProgress, Out, command_line, show
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.bench.probe import ProbeBench, Shape, drawn_features
from penultimate.engine.bench.probe import bench_probe as measure_probe
from penultimate.engine.probe.api import matching_key
from penultimate.store.errors import InputError
from penultimate.store.feature_store import FeatureStore

Store = Annotated[
    str | None,
    typer.Argument(metavar="STORE", help="A feature store: a folder, or an s3://, gs:// or az:// address."),
]
ShapeText = Annotated[
    str | None,
    typer.Option(
        "--shape",
        metavar="N,D,K",
        help="Draw features in place of a store's: rows, features and classes, such as 10000,1280,10.",
        rich_help_panel=options.WHAT,
    ),
]
_FLAGS = {
    options.WHAT: ("losses --loss",),
    options.HOW: ("l2", "tol", "solver", *TURNS),
    options.WHERE: ("device", "memory"),
}


@with_settings(ProbeBench, flags=_FLAGS)
def bench_probe(
    settings: Given,
    store: Store = None,
    shape: ShapeText = None,
    dataset: options.DatasetGlob = "*",
    backbone: options.BackboneGlob = "*",
    readout: options.ReadoutGlob = "*",
    out: Out = None,
    json: options.Json = False,
) -> None:
    """Fit the whole path, one strength, and the whole probe again, beside scikit-learn and, on a GPU, cuML.

    All fit the train rows of one set of features, which are in memory for the others and read by the probe.

    \b
    penultimate bench probe features.zarr
    penultimate bench probe features.zarr --dataset caltech101 --backbone 'tf_*' --seconds 300 --out probe.md
    penultimate bench probe --shape 10000,1280,10 --device cuda
    """
    how = ProbeBench.of(settings)
    if (store is None) == (shape is None):
        raise InputError("expected a STORE or --shape N,D,K, and not both")
    with ExitStack() as stack:
        if shape is not None:
            features = stack.enter_context(drawn_features(Shape.parse(shape)))
        else:
            opened = FeatureStore(str(store))
            features = opened.read(matching_key(opened, dataset, backbone, readout))
        progress = stack.enter_context(BenchProgress())
        report = measure_probe(features, how, command=command_line(), progress=progress)
    show(report, out=out, json=json)
