"""Embed images with loaded backbones into one FeatureSet a readout; an interrupted run resumes at a block.

Each image is read once and decoded once however many backbones there are, and resized once for each distinct view; one
pass of a backbone gives all of its readouts.
What the store has of it already, by its content, is not embedded again. Reading, decoding, forward passes and writing
run at the same time, with a bounded number of batches between them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from penultimate.engine.backbones.backbone import Backbone
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.extract.pipeline import ImagesDone, Pipeline
from penultimate.engine.extract.readout_writer import BackboneWriters, ReadoutWriter
from penultimate.engine.extract.upgrade import contents_by_id, read_for_format_1
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.not_finite import not_finite_advice
from penultimate.store.plan import Plan
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.writer.feature_writer import FeatureWriter

Log = Callable[[str], None]
"""A function called with a line of text for the person who waits."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_SETS_AT_ONCE = 4
"""Sets that are opened, or completed, at once: nine took half the time of one after the other on a local disk."""


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
            lacking = [plan for plan in plans if plan not in there and partition.indices(plan.num_blocks)]
            output_of = dict(zip(plans, extractor.outputs, strict=True))

            def opened(plan: Plan) -> ReadoutWriter:
                backbone, readout = output_of[plan]
                writer = stack.enter_context(_open_writer(store, plan, images, backbone, partition, log))
                return ReadoutWriter(readout, writer, images.contents)

            writers = _at_once(opened, lacking)
            found = dict(zip(lacking, writers, strict=True))
            groups = _grouped(extractor, [found.get(plan) for plan in plans])
            if writers:
                stack.enter_context(extractor.threads.in_force())
                _log_known(writers, log)
                Pipeline(groups, images, extractor).run(progress)
            for group in groups:
                for each in group.writers:
                    own = extractor.notes.get(each.writer.plan.embedding.label, {})
                    each.writer.provenance |= {"backbone": dict(group.backbone.provenance), **own}
            _at_once(lambda each: each.writer.complete(), writers)
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


def _at_once(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call ``function`` for several sets at the same time: one waits for the disk, or a server, while others work."""
    with ThreadPoolExecutor(_SETS_AT_ONCE, thread_name_prefix="sets") as pool:
        return list(pool.map(function, items))


def _open_writer(
    store: FeatureStore, plan: Plan, images: ImageSet, backbone: Backbone, partition: Partition, log: Log
) -> FeatureWriter:
    """Open a writer of a part of a plan, which has some blocks, with the provenance known so far."""
    provenance = {
        "images": dict(images.provenance),
        "preprocess": backbone.preprocess.as_dict(),
        "versions": library_versions(),
        "machine": machine(),
        "commit": source_commit(),
        "created": utc_now(),
    }
    blocks, contents_of = partition.indices(plan.num_blocks), partial(contents_by_id, images)
    return store.writer(plan, provenance=provenance, blocks=blocks, contents_of=contents_of, log=log)
