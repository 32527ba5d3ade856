"""``penultimate bench``: measure each part of an extraction on the user's images and name the bottleneck."""

import time
from dataclasses import replace
from typing import Annotated

import typer

from penultimate.cli import options
from penultimate.cli.output import log, print_json, print_table
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.backbones.request import requests_of
from penultimate.engine.extract.prepare import ExtractionJob, prepared_backbones
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.extract.throughput import default_num_images, measure
from penultimate.engine.images.load import load_images
from penultimate.engine.images.options import SourceOptions
from penultimate.engine.images.subset import sample_rows, subset
from penultimate.engine.images.summary import summary_of
from penultimate.engine.runtime.capabilities import machine

_COLUMNS = {
    "model": "model",
    "precision": "precision",
    "decode_per_sec": "decode/s",
    "infer_samples_per_sec": "model/s",
    "write_per_sec": "write/s",
    "end_to_end_per_sec": "end to end/s",
    "end_to_end_per_sec_first_round": "first round/s",
    "ceiling_per_sec": "ceiling/s",
    "ratio_to_ceiling": "ratio",
    "bottleneck": "bottleneck",
}


_REMOTE_COLUMNS = {
    "requests_per_sec": "fetch/s",
    "fetch_mb_per_sec": "MB/s",
    "request_ms": "ms a request",
    "request_ms_alone": "ms alone",
    "listing_seconds": "listing s",
}


_FLAGS = {
    options.WHAT: ("readouts --readout",),
    options.HOW: ("preprocess", "decoder", "precision", "compile", "batch_size --batch-size -b"),
    options.WHERE: ("device", "workers --workers -j"),
}


class BenchOptions(SourceOptions, ExtractionSettings):
    """All options of ``penultimate bench`` besides images and networks."""


@with_settings(BenchOptions, flags=_FLAGS)
def bench(
    images: options.Images,
    model: options.Models,
    settings: Given,
    weights: options.Weights = "timm",
    root: options.Root = None,
    num_images: Annotated[
        int | None,
        typer.Option(
            "--images",
            min=1,
            help="Images to run, evenly spaced in the set; by default 1024, or 16384 with device cuda.",
            rich_help_panel=options.WHAT,
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(min=1, help="Rounds after the first, of which the median is shown.", rich_help_panel=options.HOW),
    ] = 3,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure decoding, the model, writing and all together, and name what holds the whole back.

    The first round holds all warm-up; the other columns are medians of the rounds after it. Of several models there
    is a row each, and one of all from one decode. Files come from the system's cache where it has them. Of images in an
    object store fetching is measured too, with as many requests at once as an extraction makes and with one; the
    bottleneck may then be listing, the number of connections, or the network.

    \b
    penultimate bench photos/ --model resnet50.a1_in1k
    penultimate bench photos/ --model tf_efficientnet_lite0 --weights package --device cpu --json
    """
    how = BenchOptions.of(settings)
    how.check_machine()
    requests = tuple(requests_of(model, weights=weights, seed=seed, readouts=how.readouts))
    began = time.perf_counter()
    whole = load_images(images, root=root, labels=False, **how.part(SourceOptions).model_dump())
    listing_seconds = time.perf_counter() - began
    log(summary_of(whole))
    rows = sample_rows(len(whole), num_images or default_num_images(how.device))
    # Under the digest of the sample alone, for which the rest of the set need not be read.
    sample = replace(subset(whole, rows), subset_of=None)
    job = ExtractionJob(requests=requests, settings=how.part(ExtractionSettings))
    backbones, _ = prepared_backbones(job.requests, job.settings, num_images=lambda backbone: len(whole), log=log)
    is_remote = whole.source.reads_at_once > 1
    together = [backbones] if len(backbones) > 1 else []
    measured = [
        measure(
            sample,
            job.extractor(chosen),
            num_parameters=sum(backbone.num_parameters for backbone in chosen),
            shared_cores=how.device == "cpu",
            num_rounds=rounds,
            listing_seconds=listing_seconds if is_remote else None,
            num_listed=len(whole),
        ).as_dict()
        | {"machine": machine()}
        for chosen in [*([backbone] for backbone in backbones), *together]
    ]
    if json:
        print_json(measured)
    else:
        print_table(
            measured,
            _COLUMNS | (_REMOTE_COLUMNS if is_remote else {}),
            title=f"{len(sample):,} images of {sample.name}, batch {how.rows_per_batch}, {how.threads}",
        )
