"""``bench extract``: each stage of an extraction alone and all together, their ceiling, and the bottleneck."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import TimmBackbone
from penultimate.engine.bench.throughput import Throughput, fitting_images, measure, most_images
from penultimate.engine.bench.timing.measurement import other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Progress, TurnOptions, no_progress
from penultimate.engine.extract.embed import Log
from penultimate.engine.extract.prepare import ExtractionJob, prepared_backbones
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.images.options import SourceOptions
from penultimate.engine.images.subset import sample_rows, subset
from penultimate.engine.images.summary import summary_of


class ExtractBench(SourceOptions, ExtractionSettings, TurnOptions):
    """All options of ``penultimate bench extract`` besides images and networks."""


def bench_extract(
    locations: Sequence[str],
    requests: Sequence[BackboneRequest],
    options: ExtractBench,
    *,
    command: Sequence[str],
    root: Path | None = None,
    num_images: int | None = None,
    progress: Progress = no_progress,
    log: Log = lambda line: None,
) -> Report:
    """Measure the extraction of ``num_images`` of these images, by default as many as the seconds allow.

    Of several networks each is measured, and all of them from one decode. Raises what an extraction raises.
    """
    options.check_machine()
    began = time.perf_counter()
    whole = load_images(locations, root=root, labels=False, **options.part(SourceOptions).model_dump())
    listing_seconds = time.perf_counter() - began
    log(summary_of(whole))
    job = ExtractionJob(requests=tuple(requests), settings=options.part(ExtractionSettings))
    backbones, _ = prepared_backbones(job.requests, job.settings, num_images=lambda each: len(whole), log=log)
    sets = [*([backbone] for backbone in backbones), *([backbones] if len(backbones) > 1 else [])]
    turns, is_remote = options.part(TurnOptions).part_of(len(sets)), whole.source.reads_at_once > 1

    def measured(chosen: Sequence[TimmBackbone]) -> Throughput:
        extractor = job.extractor(chosen)
        most = sample_of(whole, num_images or most_images(options.device))
        sample = most if num_images else sample_of(most, fitting_images(most, extractor, turns))
        return measure(
            sample,
            extractor,
            turns,
            num_parameters=sum(backbone.num_parameters for backbone in chosen),
            shared_cores=options.device == "cpu",
            listing_seconds=listing_seconds if is_remote else None,
            num_listed=len(whole),
            progress=progress,
        )

    found, threads = [measured(chosen) for chosen in sets], options.threads
    return Report(
        bench="extract",
        title=f"Extraction of {whole.name}",
        command=command,
        settings={
            "set": whole.name,
            "images": found[0].num_images,
            "models": [each.model for each in found],
            "device": options.device,
            "precision": options.precision,
            "decoder": options.decoder_name,
            "batch": options.rows_per_batch,
            "threads": f"{threads.decode} decode, {threads.replicas} replicas of {threads.per_replica}",
            "compiled": [backbone.name for backbone in backbones if backbone.provenance["compiled"]],
        },
        measurements=[line for each in found for line in each.measurements()],
        other_cores=other_cores([laps for each in found for laps in each.laps.values()]),
        findings=[sentence for each in found for sentence in each.findings()],
        not_measured=[
            "Files come from the system's cache where it has them; reading from a cold disk is not measured."
        ],
        results=[each.as_dict() for each in found],
    )


def sample_of(images: ImageSet, count: int) -> ImageSet:
    """Return ``count`` of the images, evenly spaced, as a set of their own.

    Its digest is that of the sample alone, for which the rest of the set need not be read.
    """
    return replace(subset(images, sample_rows(len(images), count)), subset_of=None)
