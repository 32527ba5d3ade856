"""Extract the features of images with networks given by name, as one FeatureSet a network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from penultimate.engine.backbones.request import requests_of
from penultimate.engine.extract.embed import Extracted, Log, embed_images, log_not_finite
from penultimate.engine.extract.fetch import KeptSource
from penultimate.engine.extract.parity import CHECK_IMAGES
from penultimate.engine.extract.pipeline import ImagesDone
from penultimate.engine.extract.prepare import ExtractionJob
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.images.subset import sample_rows
from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore


def extract(
    images: ImageSet | str | Path,
    *,
    store: FeatureStore | str | Path,
    model: str | Sequence[str],
    weights: str = "timm",
    seed: int = 0,
    partition: Partition = WHOLE,
    **settings: Any,
) -> list[FeatureSet]:
    """Embed images with pretrained networks and store their features; stored ones are not computed again.

    Each image is read and decoded once, however many networks there are. An image that any set in the store has
    features of, recognised by its content, is not embedded again: a set may grow, shrink, be relabelled, split anew,
    renamed or moved. A call that was interrupted or killed goes on at its first missing block when it is made again.
    Images that cannot be decoded are left out, and recorded by id with their reason in ``FeatureSet.failed``.

    Parameters
    ----------
    images
        An ``ImageSet`` (see ``load_images``, which splits and labels), or what ``penultimate extract`` takes as
        IMAGES: a folder, a manifest, tars, Parquet files, an array file or the name of a dataset.
    store
        The feature store, or where it lies: a folder, or an ``s3://``, ``gs://`` or ``az://`` address. It is made
        if it is not there.
    model
        timm names (``arch`` or ``arch.tag``), globs over them, a set such as ``kornblith16``, or networks of your own
        (``package.module:function``).
    weights
        ``timm`` (downloaded from its hub), ``package`` (an installed weight package), ``random``, or a
        ``.safetensors`` or ``.pth`` file.
    seed
        Seed of random weights.
    partition
        The part of the rows that this call embeds, ``Partition(index=0, count=2)`` for the first half; processes
        that do one part each make the same store as one call.
    **settings
        Any field of ``ExtractionSettings``, which ``penultimate settings extract`` lists with its type, range,
        default and meaning. Used most: ``device`` ("cpu" or "cuda"), ``precision`` ("float32", "bfloat16",
        "float16", on a GPU "tf32"), ``readouts`` (names of the vectors to keep of one pass), ``batch_size`` (images a
        forward pass), ``workers`` (threads that decode).

    Returns
    -------
    list of FeatureSet
        One for each readout of each network, in the order of ``model`` and ``readouts``. Of a part, those that are
        complete with what other processes did.

    Raises
    ------
    InputError
        If the images, a network's name or a setting are not understood.
    UnavailableError
        If a device, precision, decoder or weights are not to be had here; nothing is replaced silently.
    DecodeError
        If not one image can be decoded.
    StoreBusyError
        If another process writes the same part of the store.

    Examples
    --------
    >>> import penultimate
    >>> photos = getfixture("photos")  # photos/cat/00.jpg, photos/dog/00.jpg, ...
    >>> (features,) = penultimate.extract(photos, store=photos / "../features.zarr", model="test_vit", weights="random")
    >>> features.features.shape
    (24, 64)
    """
    how = ExtractionSettings.of(settings)
    how.check_machine()
    requests = tuple(
        requests_of([model] if isinstance(model, str) else model, weights=weights, seed=seed, readouts=how.readouts)
    )
    if not isinstance(store, FeatureStore):
        FeatureStore.check_location(store)  # before images are listed; it is made after that
    image_set = images if isinstance(images, ImageSet) else load_images(str(images))
    job = ExtractionJob(requests=requests, settings=how)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.create(store)
    return [extracted.features for extracted in extract_job(image_set, job, opened, partition=partition)]


def extract_job(
    images: ImageSet,
    job: ExtractionJob,
    store: FeatureStore,
    *,
    partition: Partition = WHOLE,
    log: Log = lambda line: None,
    progress: ImagesDone = lambda done, total: None,
) -> list[Extracted]:
    """Prepare, check and run an ExtractionJob in this process.

    What the parity check finds is kept with the features, and logged if it is past its tolerance; so is how many
    features are not finite. Each image is fetched once, those of the check too.
    """
    sampled = sample_rows(len(images), CHECK_IMAGES) if job.settings.parity else ()
    images = replace(images, source=KeptSource(images.source, sampled))
    extractor = job.prepare(images, store, log)
    checks = job.check(extractor, images, store, log)
    extracted = embed_images(
        images, extractor.with_notes(checks), store, partition=partition, log=log, progress=progress
    )
    if waiting := len(extractor.outputs) - len(extracted):
        part, total = f"{partition.index}/{partition.count}", len(extractor.outputs)
        log(f"part {part} is done; {waiting} of {total} sets of features wait for other parts")
    log_not_finite(store, [each.features for each in extracted], log)
    return extracted
