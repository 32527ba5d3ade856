"""``penultimate parity``: how far the fast way of computing features is from the reference, on one's own images."""

from typing import Annotated

import typer

from penultimate.cli import options
from penultimate.cli.output import log, print_json, print_table
from penultimate.engine.backbones.request import requests_of
from penultimate.engine.extract.parity import check_parity
from penultimate.engine.extract.prepare import prepared_backbones
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.load import load_images
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.runtime.devices import DEFAULT_PRECISION
from penultimate.store.errors import ParityError

_COLUMNS = {
    "backbone": "backbone",
    "decoder": "decoder",
    "precision": "precision",
    "num_images": "images",
    "pixel_distance": "pixels off /255",
    "feature_distance": "features off",
    "cosine_worst": "worst cosine",
    "num_changed_predictions": "changed predictions",
    "passed": "passed",
}


def parity(
    images: options.Images,
    model: options.Models,
    weights: options.Weights = "timm",
    root: options.Root = None,
    preprocess: options.PreprocessOption = "paper",
    decoder: options.DecoderOption = None,
    device: options.Device = "cpu",
    precision: options.Precision = DEFAULT_PRECISION,
    compiled: options.Compile = None,
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    num_images: Annotated[int, typer.Option("--images", min=1, help="Images to run, evenly spaced in the set.")] = 256,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare the chosen decoder, resize, precision and compiler with Pillow and torch in float32.

    Both run on a sample of the images. Shown are the mean distance of the pixels, the median relative distance and
    the smallest cosine of the features, and how many predictions of the network's own classifier changed. Past a
    tolerance (`penultimate.engine.extract.parity` has each with its reason) it says so and leaves with exit code 1.

    \b
    penultimate parity photos/ --model resnet50.a1_in1k --precision bfloat16
    penultimate parity photos/ --model tf_efficientnet_lite0 --weights package --compile --json
    """
    requests = requests_of(model, weights=weights, seed=seed)
    image_set = load_images(images, root=root, labels=False)
    settings = ExtractionSettings(
        preprocess=preprocess,
        decoder=decoder,
        device=device,
        precision=precision,
        compile=compiled,
        batch_size=batch_size,
        workers=workers,
    )
    backbones, _ = prepared_backbones(requests, settings, num_images=lambda backbone: len(image_set), log=log)
    by = settings.make_decoder()
    reports = [
        check_parity(
            image_set, backbone, by, num_images=num_images, batch_size=settings.rows_per_batch, threads=settings.threads
        )
        for backbone in backbones
    ]
    rows = [report.as_dict() | {"machine": machine()} for report in reports]
    if json:
        print_json(rows)
    else:
        print_table(rows, _COLUMNS)
    failed = [f"{report.backbone}: {', '.join(report.failures)}" for report in reports if report.failures]
    if failed:
        raise ParityError(f"too far from the reference: {'; '.join(failed)}")
