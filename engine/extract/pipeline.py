"""Pipeline: images in, rows of every readout that lacks them written; all stages work at the same time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.extract.fetch import Fetched, FetchedSource
from penultimate.engine.extract.readout_writer import BackboneWriters, Embedded
from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.prefetch import prefetch_map

# Shapes: N samples, B images of a batch.

ImagesDone = Callable[[int, int], None]
"""A function called with (images done, images to do) before the first batch and after every batch."""

_ROWS_AT_ONCE = 64
"""Number of images whose rows are written together, at least: each call of a writer costs as much as copying 300 rows,
and a backbone has one writer a readout."""


@dataclass(frozen=True, slots=True)
class _EmbeddedBatch:
    """What every backbone gave of the images of a batch that it needed, without their pixels."""

    num_images: int
    embedded: tuple[Embedded, ...]
    failed: Mapping[int, str]


class Pipeline:
    """Reads, decodes, embeds and writes at the same time on separate threads.

    In memory are the decoder's own batches, two batches a replica, two to be written, the rows of those that are
    written together, and two shards a readout.
    """

    def __init__(self, groups: Sequence[BackboneWriters], images: ImageSet, extractor: Extractor) -> None:
        self._groups = groups
        self._images = images
        self._extractor = extractor
        self._views = list(dict.fromkeys(each.backbone.preprocess.pixels for each in groups))
        self._num_skipped = 0
        # A block is a multiple of so many rows: one that is full is written at once, or with the next few batches.
        self._rows_at_once = min(_ROWS_AT_ONCE, groups[0].writers[0].writer.plan.shard_rows)
        self._unwritten: list[_EmbeddedBatch] = []

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
        self._write_all()

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
        return _EmbeddedBatch(len(batch.indices_B) + len(batch.failed), tuple(embedded), batch.failed)

    def _write(self, batch: _EmbeddedBatch) -> int:
        """Take a batch to be written, alone or together with those before it; return the number of its images."""
        self._unwritten.append(batch)
        if sum(each.num_images for each in self._unwritten) >= self._rows_at_once:
            self._write_all()
        return batch.num_images

    def _write_all(self) -> None:
        """Write what was taken and not written."""
        if not (batches := self._unwritten):
            return
        self._unwritten = []
        failed = {sample: reason for batch in batches for sample, reason in batch.failed.items()}
        for number, group in enumerate(self._groups):
            group.write(Embedded.joined([batch.embedded[number] for batch in batches]), failed)
