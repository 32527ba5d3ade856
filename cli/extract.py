"""``penultimate extract``: images and backbones in, features in a store."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from penultimate.cli import options
from penultimate.cli.cluster import ClusterOption, ClusterProgress, TaskCpus, open_cluster, resources_of
from penultimate.cli.output import log, print_json, print_table
from penultimate.cli.progress import ImageProgress
from penultimate.engine.backbones.request import requests_of
from penultimate.engine.extract.extract import extract_job
from penultimate.engine.extract.prepare import ExtractionJob
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.digest_cache import user_cache
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.runtime.devices import DEFAULT_PRECISION
from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.layout import SHARD_ROWS

_FAILED_SHOWN = 10
"""Images left out that are named on stderr; the store has all of them."""


def extract(
    images: options.Images,
    store: Annotated[
        str,
        typer.Option(
            "--store", help="The feature store: a folder, or an s3://, gs:// or az:// address; made if it is not there."
        ),
    ],
    model: options.Models,
    weights: options.Weights = "timm",
    root: options.Root = None,
    name: options.DatasetName = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a dataset named in IMAGES into --root first, where that can be.")
    ] = False,
    preprocess: options.PreprocessOption = "paper",
    decoder: options.DecoderOption = None,
    device: options.Device = "cpu",
    precision: options.Precision = DEFAULT_PRECISION,
    compiled: options.Compile = None,
    dtype: options.StoredDtype = "float32",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    parity: options.ParityOption = True,
    seed: Annotated[int, typer.Option(help="Of the split, where none is given, and of random weights.")] = 0,
    val_fraction: Annotated[float, typer.Option(help="Share of a class held out for val, where no split is given.")] = (
        0.2
    ),
    test_fraction: Annotated[
        float, typer.Option(help="Share of a class held out for test, where no split is given.")
    ] = 0.2,
    label_column: Annotated[
        str, typer.Option(help="Column of a table, or field of a tar's .json, that holds the label.")
    ] = "label",
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Samples of a manifest have several labels, separated by |.")
    ] = False,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="--no-labels takes every image, unlabelled.")
    ] = True,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Do only part I of N, from 0: N processes, each with its own part, make the same store as one.",
        ),
    ] = "0/1",
    shard_rows: Annotated[
        int,
        typer.Option(
            help="Rows of one object of the store: the unit of work and of resumption. A multiple of 256, or fewer."
        ),
    ] = SHARD_ROWS,
    cluster: ClusterOption = None,
    task_cpus: TaskCpus = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Remember what files contained, by path, size and times, in ~/.cache/penultimate (XDG_CACHE_HOME).",
        ),
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Embed images with pretrained backbones and keep the penultimate features.

    Killed or interrupted, the same command goes on at the first missing shard; features that are there already
    are not computed again. Images that cannot be decoded are recorded with their reason and left out. What the
    parity check finds is kept with the features, and said if it is past its tolerance.

    \b
    penultimate extract photos/ --store features.zarr --model resnet50.a1_in1k
    penultimate extract caltech101 --root data/caltech101 --store features.zarr \\
        --model tf_efficientnet_lite0 --model tf_efficientnet_lite1 --weights package
    penultimate extract labels.csv --store features.zarr --model 'vit_small*' --device cuda
    penultimate extract 's3://bucket/set-{0000..0999}.tar' --store s3://bucket/features --model resnet50.a1_in1k \\
        --device cuda --cluster auto
    """
    partition = Partition.parse(shard)
    requests = tuple(requests_of(model, weights=weights, seed=seed))
    image_set = load_images(
        images,
        root=root,
        download=download,
        seed=seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        labels=labels,
        label_column=label_column,
        multi_label=multi_label,
        cache=user_cache() if cache else None,
    )
    image_set = image_set if name is None else replace(image_set, name=name)
    settings = ExtractionSettings(
        preprocess=preprocess,
        decoder=decoder,
        device=device,
        precision=precision,
        dtype=dtype,
        compile=compiled,
        batch_size=batch_size,
        workers=workers,
        parity=parity,
    )
    job = ExtractionJob(requests=requests, settings=settings, shard_rows=shard_rows)
    opened = FeatureStore.create(store)
    if cluster is not None:
        if partition != WHOLE:
            raise InputError("--cluster makes its own parts; leave --shard away")
        extracted = _extract_on(cluster, image_set, job, opened, task_cpus)
    else:
        with ImageProgress(image_set.name) as progress:
            extracted = extract_job(image_set, job, opened, partition=partition, log=log, progress=progress)
    rows = [_row(features) for features in extracted]
    if json:
        print_json(rows)
    else:
        print_table(rows, {column: column for column in ("dataset", "backbone", "digest", "rows", "failed", "dim")})
    if len(extracted) < len(requests):
        waiting = len(requests) - len(extracted)
        typer.echo(f"part {shard} is done; {waiting} of {len(requests)} backbones wait for other parts", err=True)
    for features in extracted[:1]:
        for sample, reason in list(features.failed.items())[:_FAILED_SHOWN]:
            typer.echo(f"left out {sample}: {reason}", err=True)


def _extract_on(
    address: str,
    images: ImageSet,
    job: ExtractionJob,
    store: FeatureStore,
    task_cpus: int | None,
) -> list[FeatureSet]:
    from penultimate.engine.study.distributed import extract_on

    with open_cluster(address) as cluster, ClusterProgress(images.name) as progress:
        resources = resources_of(cluster, device=job.settings.device, task_cpus=task_cpus)
        job = job.for_workers(cluster.slots(resources), cores=resources.cpus)
        return extract_on(cluster, images, job, store, resources=resources, log=log, progress=progress.update)


def _row(features: FeatureSet) -> dict[str, Any]:
    return {
        "dataset": features.key.dataset,
        "backbone": features.key.backbone,
        "digest": features.key.digest,
        "rows": features.num_rows,
        "failed": len(features.failed),
        "dim": features.feature_dim,
    }
