"""``penultimate extract``: embed images with backbones and write the features into a store."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from penultimate.cli import options
from penultimate.cli.cluster import ClusterOption, ClusterProgress, TaskCpus, open_cluster, resources_of
from penultimate.cli.output import log, log_failed, print_json, print_table, with_readout
from penultimate.cli.progress import ImageProgress
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.backbones.request import requests_of
from penultimate.engine.extract.embed import Extracted
from penultimate.engine.extract.extract import extract_job
from penultimate.engine.extract.prepare import ExtractionJob
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.digest_cache import user_cache
from penultimate.engine.images.image_set import ImageSet, check_dataset_name
from penultimate.engine.images.load import load_images
from penultimate.engine.images.options import ImageOptions
from penultimate.engine.images.summary import summary_of
from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.store.errors import InputError
from penultimate.store.feature_store import FeatureStore

_FLAGS = {
    options.WHAT: ("readouts --readout", "label_column", "multi_label", "val_fraction", "test_fraction"),
    options.HOW: (
        "preprocess",
        "decoder",
        "precision",
        "compile",
        "batch_size --batch-size -b",
        "retry_failed",
    ),
    options.WHERE: ("device", "workers --workers -j"),
}


_COLUMNS = ("dataset", "backbone", "readout", "digest", "rows", "reused", "embedded", "failed", "dim")


class ExtractOptions(ImageOptions, ExtractionSettings):
    """All options of ``penultimate extract`` besides images, networks and the store."""


@with_settings(ExtractOptions, flags=_FLAGS)
def extract(
    images: options.Images,
    store: options.NewStore,
    model: options.Models,
    settings: Given,
    weights: options.Weights = "timm",
    root: options.Root = None,
    name: options.DatasetName = None,
    seed: options.Seed = 0,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels/--no-labels",
            help="--no-labels takes every image, unlabelled.",
            rich_help_panel=options.WHAT,
        ),
    ] = True,
    shard: options.Part = "0/1",
    cluster: ClusterOption = None,
    task_cpus: TaskCpus = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Remember what files contained, by path, size and times, in ~/.cache/penultimate (XDG_CACHE_HOME).",
            rich_help_panel=options.WHERE,
        ),
    ] = True,
    json: options.Json = False,
) -> None:
    """Embed images with pretrained backbones and keep the penultimate features, or other readouts of the same pass.

    Killed or interrupted, the same command goes on at the first missing block. An image of which the store has
    features, by its content, is not embedded again: sets may grow, move, be relabelled or split anew. Images that
    cannot be decoded are recorded with their reason and left out. What the parity check finds is kept with the
    features, and reported if it is past its tolerance.

    \b
    penultimate extract photos/ --store features.zarr --model resnet50.a1_in1k
    penultimate extract caltech101 --root data/caltech101 --store features.zarr \\
        --model tf_efficientnet_lite0 --model tf_efficientnet_lite1 --weights package
    penultimate extract labels.csv --store features.zarr --model 'vit_small*' --device cuda
    penultimate extract photos/ --store features.zarr --model vit_small_patch14_dinov2 --readout cls,patch-mean,last4
    penultimate extract s3://bucket/photos/labels.csv --store features.zarr --model resnet50.a1_in1k
    penultimate extract 's3://bucket/set-{0000..0999}.tar' --store s3://bucket/features --model resnet50.a1_in1k \\
        --device cuda --cluster auto
    """
    how = ExtractOptions.of(settings)
    how.check_machine()
    partition = Partition.parse(shard)
    if name is not None:
        check_dataset_name(name)
    # A wrong name is known before any image is read.
    requests = tuple(requests_of(model, weights=weights, seed=seed, readouts=how.readouts))
    FeatureStore.check_location(store)  # and so is a wrong store, which is made once the images are known to be right
    image_set = load_images(
        images,
        root=root,
        seed=seed,
        labels=labels,
        cache=user_cache() if cache else None,
        **how.part(ImageOptions).model_dump(),
    )
    image_set = image_set if name is None else replace(image_set, name=name)
    log(summary_of(image_set))
    job = ExtractionJob(requests=requests, settings=how.part(ExtractionSettings))
    opened = FeatureStore.create(store)
    if cluster is not None:
        if partition != WHOLE:
            raise InputError("--cluster makes its own parts; leave --shard away")
        extracted = _extract_on(cluster, image_set, job, opened, task_cpus)
    else:
        with ImageProgress(image_set.name) as progress:
            extracted = extract_job(image_set, job, opened, partition=partition, log=log, progress=progress)
    rows = [_row(each) for each in extracted]
    if json:
        print_json(rows)
    else:
        print_table(rows, with_readout({column: column for column in _COLUMNS}, rows))
    for each in extracted[:1]:
        log_failed(each.features.failed)


def _extract_on(
    address: str,
    images: ImageSet,
    job: ExtractionJob,
    store: FeatureStore,
    task_cpus: int | None,
) -> list[Extracted]:
    from penultimate.engine.study.distributed import PARTS_PER_SLOT, extract_on

    with open_cluster(address) as cluster, ClusterProgress(images.name) as progress:
        resources = resources_of(cluster, device=job.settings.device, task_cpus=task_cpus)
        parts = PARTS_PER_SLOT if resources.gpus else 1  # a process on a GPU does one part, and compiles for it alone
        job = job.for_workers(parts * cluster.slots(resources), cores=resources.cpus)
        return extract_on(cluster, images, job, store, resources=resources, log=log, progress=progress.update)


def _row(extracted: Extracted) -> dict[str, Any]:
    features = extracted.features
    return {
        "dataset": features.key.dataset,
        "backbone": features.key.backbone,
        "readout": features.key.readout,
        "digest": features.key.digest,
        "rows": features.num_rows,
        "reused": extracted.num_reused,
        "embedded": extracted.num_embedded,
        "failed": len(features.failed),
        "dim": features.feature_dim,
    }
