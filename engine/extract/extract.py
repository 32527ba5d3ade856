"""Extraction: images and backbones in, one FeatureSet a backbone out; resumable a shard at a time.

Each image is read and decoded once however many backbones there are, and resized once for each distinct view.
Decoding, forward passes and writing run at the same time, with a bounded number of batches between them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.backbone import Backbone, Identified
from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.partition import WHOLE, Share
from penultimate.engine.runtime.prefetch import ahead
from penultimate.engine.runtime.threads import CPU_BATCH_SIZE, ThreadShare
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.feature_writer import FeatureWriter
from penultimate.store.format.layout import SHARD_ROWS, num_shards, variable_width
from penultimate.store.key import FeatureKey
from penultimate.store.not_finite import not_finite_advice
from penultimate.store.plan import Plan
from penultimate.store.provenance import library_versions, machine, source_commit, utc_now

# Shapes: N samples, B images of a batch, D feature dimensions.

Report = Callable[[int, int], None]
"""Called with (images done, images to do) before the first batch and after every batch."""


def feature_key(images: ImageSet, backbone: Identified, decoder: str, *, dtype: str) -> FeatureKey:
    """The key under which ``extract`` keeps the features of these images through this backbone and decoder, by name.

    Batch size, threads and compilation are no part of it: they choose among orders of the same sums, which moves
    features by rounding alone (parity measures it), and a run resumed with others of them goes on where it was.
    What was used is in the provenance.
    """
    return FeatureKey(
        dataset=images.name,
        images=images.digest,
        backbone=backbone.name,
        weights=backbone.weights_digest,
        preprocess=backbone.preprocess.digest,
        decoder=decoder,
        precision=backbone.precision,
        dtype=dtype,
    )


def extract(
    images: ImageSet,
    backbones: Sequence[Backbone],
    store: FeatureStore,
    *,
    decoder: Decoder,
    batch_size: int = CPU_BATCH_SIZE,
    dtype: str = "float32",
    threads: ThreadShare | None = None,
    notes: Mapping[str, Mapping[str, Any]] | None = None,
    share: Share = WHOLE,
    shard_rows: int = SHARD_ROWS,
    report: Report = lambda done, total: None,
) -> list[FeatureSet]:
    """Embed every image with every backbone and keep the features; shards already in the store are not computed again.

    Returns one FeatureSet a backbone, in their order; of a ``share``, those that are complete with what other
    processes did. Images that cannot be decoded are left out and recorded by id with their reason. ``batch_size`` is
    lowered to a divisor of ``shard_rows``, so that a resumed run computes the very batches of an uninterrupted one.
    ``threads`` defaults to the share of a CPU's. ``notes``, by name of backbone, join the provenance of its features.

    Raises DecodeError if no image can be decoded, MemoryLimitError if one image does not fit beside the networks,
    StoreBusyError if another process writes one of these shards, VanishedImageError if an image is not any more what
    it was when the set was digested, and OSError if the disk is full; run again to resume.
    """
    threads = threads or ThreadShare.of("cpu")
    keys = [feature_key(images, backbone, decoder.name, dtype=dtype) for backbone in backbones]
    lacking = {key: backbone for key, backbone in zip(keys, backbones, strict=True) if not store.contains(key)}
    with ExitStack() as stack:
        shards = share.shards(num_shards(len(images), shard_rows))
        sinks = [
            _Sink(
                backbone,
                stack.enter_context(
                    open_writer(store, key, images, backbone, shard_range=shards, shard_rows=shard_rows)
                ),
                dtype,
            )
            for key, backbone in lacking.items()
            if shards
        ]
        runs = list(_runs(sinks, len(images)))
        done, total = 0, sum(len(rows) for rows, _ in runs)
        stack.enter_context(threads.in_force())
        if total:
            report(0, total)
        for rows, needing in runs:
            for through in _embed_into(needing, images, rows, decoder, rows_a_batch(batch_size, shard_rows), threads):
                done += through
                report(done, total)
        for sink in sinks:
            own = (notes or {}).get(sink.backbone.name, {})
            sink.writer.provenance |= {"backbone": dict(sink.backbone.provenance), **own}
    return [store.read(key) for key in keys if share == WHOLE or store.contains(key)]


def said_not_finite(store: FeatureStore, extracted: Sequence[FeatureSet], say: Callable[[str], None]) -> None:
    """Say of every FeatureSet how many of its rows are NaN or infinite, if any, and what to do about it."""
    for features in extracted:
        key = features.key
        if count := store.info(key)["num_not_finite"]:
            say(
                f"warning: {count} of {features.num_rows} features of {key.backbone} on {key.dataset} are NaN or "
                f"infinite, and no probe takes them; {not_finite_advice(key)}"
            )


def rows_a_batch(batch_size: int, shard_rows: int = SHARD_ROWS) -> int:
    """The largest divisor of a shard's rows that is not above ``batch_size``: no batch then spans two shards.

    Kernels are chosen by batch size and may round differently, so that a batch cut elsewhere would change last bits.
    """
    return next(rows for rows in range(min(batch_size, shard_rows), 0, -1) if shard_rows % rows == 0)


@dataclass(frozen=True, slots=True)
class _Sink:
    """Where the features of one backbone go."""

    backbone: Backbone
    writer: FeatureWriter

    dtype: str
    """What is stored."""


@dataclass(frozen=True, slots=True)
class _Embedded:
    """A decoded batch with the features of every backbone that lacked it."""

    batch: DecodedBatch
    features: tuple[NDArray[np.float32], ...]


def _embed_into(
    sinks: Sequence[_Sink],
    images: ImageSet,
    rows: NDArray[np.int64],
    decoder: Decoder,
    batch_size: int,
    threads: ThreadShare,
) -> Iterator[int]:
    """Decode, embed and write at once, each on threads of its own; the number of images through, a batch at a time.

    In memory at once: what the decoder holds, two batches a replica, two to be written, and a shard a backbone.
    """
    views = list(dict.fromkeys(sink.backbone.preprocess.pixels for sink in sinks))

    def embed(batch: DecodedBatch) -> _Embedded:
        pixels = [batch.views[views.index(sink.backbone.preprocess.pixels)] for sink in sinks]
        return _Embedded(batch, tuple(sink.backbone.embed(p) for sink, p in zip(sinks, pixels, strict=True)))

    def write(embedded: _Embedded) -> int:
        batch = embedded.batch
        for sink, features_BD in zip(sinks, embedded.features, strict=True):
            with np.errstate(over="ignore"):  # what float16 cannot hold is counted by the writer, and said
                stored_BD = features_BD.astype(sink.dtype, copy=False)
            sink.writer.append(batch.indices_B, stored_BD, batch.failed)
        return len(batch.indices_B) + len(batch.failed)

    with (
        ThreadPoolExecutor(threads.replicas, thread_name_prefix="replica") as replicas,
        ThreadPoolExecutor(1, thread_name_prefix="writer") as scribe,
    ):
        decoded = decoder.batches(images, rows, views, batch_size=batch_size)
        embedded = ahead(replicas, embed, decoded, depth=2 * threads.replicas)
        yield from ahead(scribe, write, embedded, depth=2)


def _runs(sinks: Sequence[_Sink], num_rows: int) -> Iterator[tuple[NDArray[np.int64], Sequence[_Sink]]]:
    """Rows still to compute, in order, cut where the set of backbones that lack them changes."""
    lacking_SM = np.zeros((len(sinks), num_rows), dtype=np.bool_)
    for lacking_M, sink in zip(lacking_SM, sinks, strict=True):
        lacking_M[sink.writer.missing_rows] = True
    rows = np.flatnonzero(lacking_SM.any(axis=0))
    cuts = np.flatnonzero((np.diff(lacking_SM[:, rows], axis=1)).any(axis=0)) + 1
    for part in np.split(rows, cuts):
        if len(part):
            yield part, [sink for sink, lacking_M in zip(sinks, lacking_SM, strict=True) if lacking_M[part[0]]]


def open_writer(
    store: FeatureStore,
    key: FeatureKey,
    images: ImageSet,
    backbone: Backbone,
    *,
    shard_range: range | None = None,
    shard_rows: int = SHARD_ROWS,
) -> FeatureWriter:
    """A writer of ``images`` under ``key``, all shards or those given, with the provenance known before it begins."""
    provenance = {
        "images": dict(images.provenance),
        "preprocess": backbone.preprocess.as_dict(),
        "versions": library_versions(),
        "machine": machine(),
        "commit": source_commit(),
        "created": utc_now(),
    }
    plan = _plan(images, key, backbone.feature_dim, shard_rows)
    return store.writer_of(plan, provenance=provenance, shard_range=shard_range)


@lru_cache(maxsize=8)
def _plan(images: ImageSet, key: FeatureKey, feature_dim: int, shard_rows: int) -> Plan:
    """Kept, because a worker of a cluster writes one part of a set after the other; an ImageSet does not change."""
    return Plan(
        key=key,
        ids_M=variable_width(images.ids_N),
        labels_M=images.labels_N,
        split_M=variable_width(images.split_N),
        class_names=tuple(images.class_names),
        metric=images.metric,
        feature_dim=feature_dim,
        shard_rows=shard_rows,
    )
