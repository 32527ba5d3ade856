"""``penultimate parity``: compare a fast way of computing features with the reference, on the user's images."""

from functools import partial
from typing import Annotated

import typer

from penultimate.cli import options
from penultimate.cli.output import log, print_json, print_table, with_readout
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.backbones.request import requests_of
from penultimate.engine.extract.parity import check_parity
from penultimate.engine.extract.prepare import prepared_backbones
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.load import load_images
from penultimate.engine.images.options import SourceOptions
from penultimate.engine.images.summary import summary_of
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.errors import ParityError
from penultimate.store.key import label_of

_COLUMNS = {
    "backbone": "backbone",
    "readout": "readout",
    "decoder": "decoder",
    "precision": "precision",
    "num_images": "images",
    "pixel_distance": "pixels off /255",
    "feature_distance": "features off",
    "cosine_worst": "worst cosine",
    "num_changed_predictions": "changed predictions",
    "passed": "passed",
}


_FLAGS = {
    options.WHAT: ("readouts --readout",),
    options.HOW: ("preprocess", "decoder", "precision", "compile", "batch_size --batch-size -b"),
    options.WHERE: ("device", "workers --workers -j"),
}


class ParityOptions(SourceOptions, ExtractionSettings):
    """All options of ``penultimate parity`` besides images and networks."""


@with_settings(ParityOptions, flags=_FLAGS)
def parity(
    images: options.Images,
    model: options.Models,
    settings: Given,
    weights: options.Weights = "timm",
    root: options.Root = None,
    num_images: Annotated[
        int,
        typer.Option("--images", min=1, help="Images to run, evenly spaced in the set.", rich_help_panel=options.WHAT),
    ] = 256,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare the chosen decoder, resize, precision and compiler with Pillow and torch in float32.

    Both run on a sample of the images. Shown are the mean distance of the pixels, the median relative distance and
    the smallest cosine of the features, and how many predictions of the network's own classifier changed. Past a
    tolerance (`penultimate.engine.extract.parity` has each with its reason) it says so and leaves with exit code 1.

    \b
    penultimate parity photos/ --model resnet50.a1_in1k --precision bfloat16
    penultimate parity photos/ --model tf_efficientnet_lite0 --weights package --compile --json
    """
    how = ParityOptions.of(settings)
    how.check_machine()
    requests = requests_of(model, weights=weights, seed=seed, readouts=how.readouts)
    image_set = load_images(images, root=root, labels=False, **how.part(SourceOptions).model_dump())
    log(summary_of(image_set))
    networks = how.part(ExtractionSettings)
    backbones, _ = prepared_backbones(requests, networks, num_images=lambda backbone: len(image_set), log=log)
    by = how.make_decoder()
    check = partial(check_parity, num_images=num_images, batch_size=how.rows_per_batch, threads=how.threads)
    reports = [report for backbone in backbones for report in check(image_set, backbone, by)]
    rows = [report.as_dict() | {"machine": machine()} for report in reports]
    if json:
        print_json(rows)
    else:
        print_table(rows, with_readout(_COLUMNS, rows))
    failed = [
        f"{label_of(report.backbone, report.readout)}: {', '.join(report.failures)}"
        for report in reports
        if report.failures
    ]
    if failed:
        raise ParityError(f"too far from the reference: {'; '.join(failed)}")
