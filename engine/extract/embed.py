"""Embed images with loaded backbones into one FeatureSet a readout; an interrupted run resumes at a block.

Each image is read once and decoded once however many backbones there are, and resized once for each distinct view; one
pass of a backbone gives all of its readouts.
What the store has of it already, by its content, is not embedded again. Reading, decoding, forward passes and writing
run at the same time, with a bounded number of batches between them.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.backbone import Backbone
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.extract.fetch import Fetched, FetchedSource
from penultimate.engine.extract.readout_writer import BackboneWriters, Embedded, ReadoutWriter
from penultimate.engine.extract.upgrade import contents_by_id, read_for_format_1
from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.not_finite import not_finite_advice
from penultimate.store.plan import Plan
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.writer.feature_writer import FeatureWriter

# Shapes: N samples, B images of a batch, D feature dimensions; S backbones.

ImagesDone = Callable[[int, int], None]
"""A function called with (images done, images to do) before the first batch and after every batch."""

Log = Callable[[str], None]
"""A function called with a line of text for the person who waits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """A complete set, and where its rows are from."""

    features: FeatureSet

    num_embedded: int
    """Number of rows that were embedded for it, by this call or an earlier one that was interrupted."""

    @property
    def num_reused(self) -> int:
        """Return the number of rows that were in the store already, or are those of an equal image."""
        return self.features.num_rows - self.num_embedded


def embed_images(
    images: ImageSet,
    extractor: Extractor,
    store: FeatureStore,
    *,
    partition: Partition = WHOLE,
    log: Log = lambda line: None,
    progress: ImagesDone = lambda done, total: None,
) -> list[Extracted]:
    """Embed every image with every backbone and keep the features; what the store has is not computed again.

    Returns one result a readout of a backbone, in the order of ``extractor.outputs``; of a ``partition``, those that
    are complete with what other processes did. Images that cannot be decoded are left out and recorded by id with their
    reason.

    Raises DecodeError if no image can be decoded, MemoryLimitError if one image does not fit beside the networks,
    StoreBusyError if another process writes one of these blocks, VanishedImageError if an image is not any more what
    it was before, and OSError if the disk is full; run again to resume.
    """
    plans = extractor.plans(images)
    read_for_format_1(images, [plan.embedding for plan in plans], store)
    there = complete_keys(images, extractor, store)
    try:
        with ExitStack() as stack:
            found = {
                plan: ReadoutWriter(readout, stack.enter_context(writer), images.contents)
                for plan, (backbone, readout) in zip(plans, extractor.outputs, strict=True)
                if plan not in there
                and (writer := _open_writer(store, plan, images, backbone, partition, log)) is not None
            }
            writers = list(found.values())
            groups = _grouped(extractor, [found.get(plan) for plan in plans])
            if writers:
                stack.enter_context(extractor.threads.in_force())
                _log_known(writers, log)
                _Pipeline(groups, images, extractor).run(progress)
            for group in groups:
                for each in group.writers:
                    own = extractor.notes.get(each.writer.plan.embedding.label, {})
                    each.writer.provenance |= {"backbone": dict(group.backbone.provenance), **own}
    finally:
        images.contents.save()
    made = {each.writer.plan: (each.writer.key, each.writer.num_embedded) for each in writers}
    complete = [(there[plan], 0) if plan in there else made.get(plan, (None, 0)) for plan in plans]
    return [Extracted(features=store.read(key), num_embedded=number) for key, number in complete if key is not None]


def log_not_finite(store: FeatureStore, extracted: Sequence[FeatureSet], log: Log) -> None:
    """Log of each FeatureSet how many of its rows are NaN or infinite, if any, and what to do about it."""
    for features in extracted:
        key = features.key
        if count := store.info(key)["num_not_finite"]:
            log(
                f"warning: {count} of {features.num_rows} features of {key.label} on {key.dataset} are NaN or "
                f"infinite, and no probe takes them; {not_finite_advice(key)}"
            )


def complete_keys(images: ImageSet, extractor: Extractor, store: FeatureStore) -> dict[Plan, FeatureKey]:
    """Return by plan the keys that are complete in the store, as far as that is known without reading an image.

    Of an extractor that tries failed images again, a set that has some is not complete.
    """
    keys = extractor.known_keys(images)
    if keys is None:
        return {}
    done = (store.contains(key) and not (extractor.retry_failed and store.info(key)["num_failed"]) for key in keys)
    return {plan: key for plan, key, is_done in zip(extractor.plans(images), keys, done, strict=True) if is_done}


def _grouped(extractor: Extractor, writers: Sequence[ReadoutWriter | None]) -> list[BackboneWriters]:
    """Return the backbones that have writers, given the writer of each of ``extractor.outputs``, None where none is."""
    of_backbone: dict[int, list[ReadoutWriter]] = {}
    for (backbone, _), writer in zip(extractor.outputs, writers, strict=True):
        if writer is not None:
            of_backbone.setdefault(id(backbone), []).append(writer)
    return [BackboneWriters(each, of_backbone[id(each)]) for each in extractor.backbones if id(each) in of_backbone]


def _log_known(writers: Sequence[ReadoutWriter], log: Log) -> None:
    """Log how many rows of each readout are in the store, where any are, and how many images are to be embedded."""
    for each in writers:
        num_samples, num_needed = each.writer.plan.num_samples, int(each.needed_N.sum())
        if num_needed < num_samples:
            rest = "to be read, then embedded if they are new" if each.num_unread else "to embed"
            log(
                f"{each.writer.plan.embedding.label}: {num_samples - num_needed:,} rows are here, {num_needed:,} {rest}"
            )


def _open_writer(
    store: FeatureStore, plan: Plan, images: ImageSet, backbone: Backbone, partition: Partition, log: Log
) -> FeatureWriter | None:
    """Open a writer of a part of a plan, with the provenance known so far; None if the part has no blocks."""
    blocks = partition.indices(plan.num_blocks)
    if not blocks:
        return None
    provenance = {
        "images": dict(images.provenance),
        "preprocess": backbone.preprocess.as_dict(),
        "versions": library_versions(),
        "machine": machine(),
        "commit": source_commit(),
        "created": utc_now(),
    }

    contents_of = partial(contents_by_id, images)
    return store.writer(plan, provenance=provenance, blocks=blocks, contents_of=contents_of, log=log)


@dataclass(frozen=True, slots=True)
class _EmbeddedBatch:
    """A decoded batch with what every backbone gave of the images of it that it needed."""

    batch: DecodedBatch
    embedded: tuple[Embedded, ...]


class _Pipeline:
    """Reads, decodes, embeds and writes at the same time on separate threads.

    In memory are the decoder's own batches, two batches a replica, two to be written, and two shards a readout.
    """

    def __init__(self, groups: Sequence[BackboneWriters], images: ImageSet, extractor: Extractor) -> None:
        self._groups = groups
        self._images = images
        self._extractor = extractor
        self._views = list(dict.fromkeys(each.backbone.preprocess.pixels for each in groups))
        self._num_skipped = 0

    def run(self, progress: ImagesDone) -> None:
        """Embed what the writers need, and tell ``progress`` of every batch."""
        rows = np.flatnonzero(np.logical_or.reduce([each.needed_N for each in self._groups]))
        if not len(rows):
            return
        progress(0, len(rows))
        done = 0
        for num_images in self._batches(rows):
            done += num_images
            progress(done + self._num_skipped, len(rows))

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[int]:
        """Yield the number of finished images, by batch."""
        threads = self._extractor.threads
        source = FetchedSource(self._images.source, num_threads=threads.decode, is_needed=self._is_needed)
        with (
            ThreadPoolExecutor(threads.replicas, thread_name_prefix="replica") as networks,
            ThreadPoolExecutor(1, thread_name_prefix="writer") as writer,
        ):
            decoded = self._extractor.decoder.batches(
                replace(self._images, source=source),
                source.needed(rows.tolist()),
                self._views,
                batch_size=self._extractor.rows_per_batch(self._images),
            )
            embedded = prefetch_map(networks, self._embed, decoded, depth=2 * threads.replicas)
            yield from prefetch_map(writer, self._write, embedded, depth=2)

    def _is_needed(self, samples_B: NDArray[np.int64], read: Sequence[Fetched]) -> NDArray[np.bool_]:
        """Offer what was read to every writer; return which samples any of them needs, (B,)."""
        unreadable = {
            sample: reason for sample, reason in zip(samples_B.tolist(), read, strict=True) if isinstance(reason, str)
        }
        writers = [writer for group in self._groups for writer in group.writers]
        for each in writers:
            each.offer_read(samples_B)
        needed_B: NDArray[np.bool_] = np.logical_or.reduce([each.needs(samples_B) for each in self._groups])
        if unreadable or not needed_B.any():  # where nothing is embedded, this alone commits what is done with
            for each in writers:
                each.fail(unreadable)
            needed_B = np.logical_or.reduce([each.needs(samples_B) for each in self._groups])
        self._num_skipped += int((~needed_B).sum())
        return needed_B

    def _embed(self, batch: DecodedBatch) -> _EmbeddedBatch:
        pixels = [batch.views[self._views.index(each.backbone.preprocess.pixels)] for each in self._groups]
        embedded = (each.embed(batch.indices_B, view) for each, view in zip(self._groups, pixels, strict=True))
        return _EmbeddedBatch(batch, tuple(embedded))

    def _write(self, embedded: _EmbeddedBatch) -> int:
        batch = embedded.batch
        for each, features in zip(self._groups, embedded.embedded, strict=True):
            each.write(features, batch.failed)
        return len(batch.indices_B) + len(batch.failed)
