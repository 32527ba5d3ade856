"""Embed images with loaded backbones into one FeatureSet a backbone; an interrupted run resumes at a shard.

Each image is read and decoded once however many backbones there are, and resized once for each distinct view.
Decoding, forward passes and writing run at the same time, with a bounded number of batches between them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.backbone import Backbone, Identified
from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.engine.runtime.threads import CPU_BATCH_SIZE, ThreadBudget
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.layout import SHARD_ROWS, num_shards, variable_width
from penultimate.store.key import FeatureKey
from penultimate.store.not_finite import not_finite_advice
from penultimate.store.plan import Plan
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.writer.feature_writer import FeatureWriter

# Shapes: N samples, B images of a batch, D feature dimensions; S backbones, M rows of a key.

ImagesDone = Callable[[int, int], None]
"""A function called with (images done, images to do) before the first batch and after every batch."""


def feature_key(images: ImageSet, backbone: Identified, decoder: str, *, dtype: str) -> FeatureKey:
    """Return the key under which the features of these images, made by this backbone and decoder, are stored.

    Batch size, threads and compilation are no part of it: they choose among orders of the same sums, which moves
    features by rounding alone (parity measures it), and a run resumed with other values goes on where it was. The
    values that were used are in the provenance.
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Extractor:
    """Loaded networks and a decoder, with the settings by which they embed images."""

    backbones: Sequence[Backbone]
    decoder: Decoder

    batch_size: int = CPU_BATCH_SIZE
    """Largest number of images a forward pass, lowered to a divisor of ``shard_rows`` so that a resumed run computes
    the same batches as an uninterrupted one."""

    dtype: str = "float32"
    """Dtype of the stored features, ``float32`` or ``float16``."""

    shard_rows: int = SHARD_ROWS
    """Number of rows in one object of the store, the unit of work and of resumption."""

    threads: ThreadBudget = field(default_factory=lambda: ThreadBudget.of("cpu"))

    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a backbone -> entries that are added to the provenance of its features."""

    def keys(self, images: ImageSet) -> list[FeatureKey]:
        """Return the key of each backbone's features of ``images``, in the order of ``backbones``."""
        return [feature_key(images, backbone, self.decoder.name, dtype=self.dtype) for backbone in self.backbones]

    def with_notes(self, notes: Mapping[str, Mapping[str, Any]]) -> "Extractor":
        """Return an Extractor whose notes are these besides its own."""
        return replace(
            self, notes={b.name: {**self.notes.get(b.name, {}), **notes.get(b.name, {})} for b in self.backbones}
        )


def embed_images(
    images: ImageSet,
    extractor: Extractor,
    store: FeatureStore,
    *,
    partition: Partition = WHOLE,
    progress: ImagesDone = lambda done, total: None,
) -> list[FeatureSet]:
    """Embed every image with every backbone and keep the features; shards already in the store are not computed again.

    Returns one FeatureSet a backbone, in their order; of a ``partition``, those that are complete with what other
    processes did. Images that cannot be decoded are left out and recorded by id with their reason.

    Raises DecodeError if no image can be decoded, MemoryLimitError if one image does not fit beside the networks,
    StoreBusyError if another process writes one of these shards, VanishedImageError if an image is not any more what
    it was when the set was digested, and OSError if the disk is full; run again to resume.
    """
    keys = extractor.keys(images)
    with ExitStack() as stack:
        writers = _open_writers(images, extractor, store, partition, stack)
        runs = list(_runs(writers, len(images)))
        done, total = 0, sum(len(rows) for rows, _ in runs)
        stack.enter_context(extractor.threads.in_force())
        if total:
            progress(0, total)
        for rows, lacking in runs:
            for through in _embed_into(lacking, images, rows, extractor):
                done += through
                progress(done, total)
        for each in writers:
            own = extractor.notes.get(each.backbone.name, {})
            each.writer.provenance |= {"backbone": dict(each.backbone.provenance), **own}
    return [store.read(key) for key in keys if partition == WHOLE or store.contains(key)]


def log_not_finite(store: FeatureStore, extracted: Sequence[FeatureSet], log: Callable[[str], None]) -> None:
    """Log of each FeatureSet how many of its rows are NaN or infinite, if any, and what to do about it."""
    for features in extracted:
        key = features.key
        if count := store.info(key)["num_not_finite"]:
            log(
                f"warning: {count} of {features.num_rows} features of {key.backbone} on {key.dataset} are NaN or "
                f"infinite, and no probe takes them; {not_finite_advice(key)}"
            )


def rows_per_batch(batch_size: int, shard_rows: int = SHARD_ROWS) -> int:
    """Return the largest divisor of a shard's rows that is not above ``batch_size``: no batch then spans two shards.

    Kernels are chosen by batch size and may round differently, so that a batch cut elsewhere would change last bits.
    """
    return next(rows for rows in range(min(batch_size, shard_rows), 0, -1) if shard_rows % rows == 0)


@dataclass(frozen=True, slots=True)
class _BackboneWriter:
    """One backbone and the writer of its features."""

    backbone: Backbone
    writer: FeatureWriter


def _open_writers(
    images: ImageSet, extractor: Extractor, store: FeatureStore, partition: Partition, stack: ExitStack
) -> list[_BackboneWriter]:
    """Open a writer for each backbone that lacks features; ``stack`` completes and closes them."""
    shard_rows = extractor.shard_rows
    shards = partition.indices(num_shards(len(images), shard_rows))
    return [
        _BackboneWriter(
            backbone,
            stack.enter_context(open_writer(store, key, images, backbone, shard_range=shards, shard_rows=shard_rows)),
        )
        for key, backbone in dict(zip(extractor.keys(images), extractor.backbones, strict=True)).items()
        if shards and not store.contains(key)
    ]


@dataclass(frozen=True, slots=True)
class _Embedded:
    """A decoded batch with the features of every backbone that lacked it."""

    batch: DecodedBatch
    features: tuple[NDArray[np.float32], ...]


def _embed_into(
    writers: Sequence[_BackboneWriter], images: ImageSet, rows: NDArray[np.int64], extractor: Extractor
) -> Iterator[int]:
    """Decode, embed and write at the same time on separate threads; yield the number of finished images, by batch.

    In memory are the decoder's own batches, two batches a replica, two to be written, and a shard a backbone.
    """
    views = list(dict.fromkeys(each.backbone.preprocess.pixels for each in writers))

    def embed(batch: DecodedBatch) -> _Embedded:
        pixels = [batch.views[views.index(each.backbone.preprocess.pixels)] for each in writers]
        return _Embedded(batch, tuple(each.backbone.embed(p) for each, p in zip(writers, pixels, strict=True)))

    def write(embedded: _Embedded) -> int:
        batch = embedded.batch
        for each, features_BD in zip(writers, embedded.features, strict=True):
            with np.errstate(over="ignore"):  # what float16 cannot hold is counted by the writer, and logged
                stored_BD = features_BD.astype(extractor.dtype, copy=False)
            each.writer.append(batch.indices_B, stored_BD, batch.failed)
        return len(batch.indices_B) + len(batch.failed)

    replicas = extractor.threads.replicas
    batch_size = rows_per_batch(extractor.batch_size, extractor.shard_rows)
    with (
        ThreadPoolExecutor(replicas, thread_name_prefix="replica") as networks,
        ThreadPoolExecutor(1, thread_name_prefix="writer") as writer,
    ):
        decoded = extractor.decoder.batches(images, rows, views, batch_size=batch_size)
        embedded = prefetch_map(networks, embed, decoded, depth=2 * replicas)
        yield from prefetch_map(writer, write, embedded, depth=2)


def _runs(
    writers: Sequence[_BackboneWriter], num_rows: int
) -> Iterator[tuple[NDArray[np.int64], Sequence[_BackboneWriter]]]:
    """Yield the rows still to compute, in order, cut where the set of backbones that lack them changes."""
    lacking_SM = np.zeros((len(writers), num_rows), dtype=np.bool_)
    for lacking_M, each in zip(lacking_SM, writers, strict=True):
        lacking_M[each.writer.missing_rows] = True
    rows = np.flatnonzero(lacking_SM.any(axis=0))
    cuts = np.flatnonzero((np.diff(lacking_SM[:, rows], axis=1)).any(axis=0)) + 1
    for part in np.split(rows, cuts):
        if len(part):
            yield part, [each for each, lacking_M in zip(writers, lacking_SM, strict=True) if lacking_M[part[0]]]


def open_writer(
    store: FeatureStore,
    key: FeatureKey,
    images: ImageSet,
    backbone: Backbone,
    *,
    shard_range: range | None = None,
    shard_rows: int = SHARD_ROWS,
) -> FeatureWriter:
    """Open a writer of ``images`` under ``key``, for all shards or those given, with the provenance known so far."""
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
    """Make the plan of a feature set; it is cached for a cluster's worker that writes one part after the other."""
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
