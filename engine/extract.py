"""Extraction: images and backbones in, one FeatureSet a backbone out; resumable a shard at a time.

Each image is read and decoded once however many backbones there are, and resized once for each distinct view.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.backbone import Backbone
from penultimate.engine.images.decoder import Decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.feature_writer import FeatureWriter
from penultimate.store.key import FeatureKey
from penultimate.store.provenance import library_versions, machine, source_commit, utc_now

# Shapes: N samples, B images of a batch, D feature dimensions.

Report = Callable[[int, int], None]
"""Called with (images done, images to do) after every batch."""


def feature_key(images: ImageSet, backbone: Backbone, decoder: Decoder, *, dtype: str) -> FeatureKey:
    """The key under which ``extract`` keeps the features of these images through this backbone."""
    return FeatureKey(
        dataset=images.name,
        images=images.digest,
        backbone=backbone.name,
        weights=backbone.weights_digest,
        preprocess=backbone.preprocess.digest,
        decoder=decoder.name,
        precision=backbone.precision,
        dtype=dtype,
    )


def extract(
    images: ImageSet,
    backbones: Sequence[Backbone],
    store: FeatureStore,
    *,
    decoder: Decoder,
    batch_size: int = 64,
    dtype: str = "float32",
    report: Report = lambda done, total: None,
) -> list[FeatureSet]:
    """Embed every image with every backbone and keep the features; shards already in the store are not computed again.

    Returns one FeatureSet a backbone, in their order. Images that cannot be decoded are left out and recorded by
    id with their reason. Raises DecodeError if that is all of them, StoreBusyError if another process writes one of
    these keys, and OSError if the disk is full or an image file vanishes; run again to resume.
    """
    keys = [feature_key(images, backbone, decoder, dtype=dtype) for backbone in backbones]
    missing = {key: backbone for key, backbone in zip(keys, backbones, strict=True) if not store.contains(key)}
    with ExitStack() as stack:
        sinks = [
            (backbone, stack.enter_context(_writer(store, key, images, backbone))) for key, backbone in missing.items()
        ]
        total = sum(len(rows) for rows, _ in _runs(sinks))
        done = 0
        for rows, needing in _runs(sinks):
            for batch_rows in _embed_into(needing, images, rows, decoder, batch_size):
                done += batch_rows
                report(done, total)
    return [store.read(key) for key in keys]


_Sinks = Sequence[tuple[Backbone, FeatureWriter]]


def _writer(store: FeatureStore, key: FeatureKey, images: ImageSet, backbone: Backbone) -> FeatureWriter:
    provenance = {
        "images": dict(images.provenance),
        "preprocess": asdict(backbone.preprocess),
        "versions": library_versions(),
        "machine": machine(),
        "commit": source_commit(),
        "created": utc_now(),
    }
    return store.writer(
        key,
        ids=images.ids_N,
        labels=images.labels_N,
        split=images.split_N,
        class_names=images.class_names,
        metric=images.metric,
        feature_dim=backbone.feature_dim,
        provenance=provenance,
    )


def _runs(sinks: _Sinks) -> Iterator[tuple[NDArray[np.int64], _Sinks]]:
    """Rows still to compute, in order, cut where the set of backbones that lack them changes."""
    lacking: dict[int, list[int]] = {}
    for position, (_, writer) in enumerate(sinks):
        for row in writer.missing_rows.tolist():
            lacking.setdefault(row, []).append(position)
    rows: list[int] = []
    current: list[int] = []
    for row in sorted(lacking):
        if rows and lacking[row] != current:
            yield np.array(rows, dtype=np.int64), [sinks[p] for p in current]
            rows = []
        current = lacking[row]
        rows.append(row)
    if rows:
        yield np.array(rows, dtype=np.int64), [sinks[p] for p in current]


def _embed_into(
    sinks: _Sinks, images: ImageSet, rows: NDArray[np.int64], decoder: Decoder, batch_size: int
) -> Iterator[int]:
    views: list[Preprocess] = list(dict.fromkeys(backbone.preprocess.pixels for backbone, _ in sinks))
    for batch in decoder.batches(images, rows, views, batch_size=batch_size):
        for backbone, writer in sinks:
            pixels_BHWC = batch.views[views.index(backbone.preprocess.pixels)]
            features_BD = (
                backbone.embed(pixels_BHWC)
                if len(batch.indices_B)
                else np.empty((0, backbone.feature_dim), dtype=np.float32)
            )
            writer.append(batch.indices_B, features_BD, batch.failed)
        yield len(batch.indices_B) + len(batch.failed)
