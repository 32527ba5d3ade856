"""FeatureWriter: features of samples in, committed rows out; the set becomes visible only when it is complete."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError, StoreBusyError
from penultimate.store.key import FeatureKey
from penultimate.store.not_finite import not_finite_advice, not_finite_rows
from penultimate.store.objects.claim import WHOLE_KEY, Claim
from penultimate.store.objects.objects import Objects
from penultimate.store.objects.waiting import claim_when_free
from penultimate.store.plan import Plan
from penultimate.store.rows.known_rows import ContentsOfIds, KnownRows
from penultimate.store.rows.record import OWN, CommitRecord
from penultimate.store.rows.rows_folder import RowsFolder
from penultimate.store.upkeep.removal import free
from penultimate.store.writer.block_buffer import BlockBuffer
from penultimate.store.writer.completion import SetDraft, complete
from penultimate.store.writer.damaged_shards import drop_damaged
from penultimate.store.writer.encoded_columns import EncodedColumns
from penultimate.store.writer.sample_states import SampleStates
from penultimate.store.writer.shard_committer import ShardCommitter, shards_in_flight
from penultimate.store.writer.waiting_blocks import WaitingBlocks

# Shapes: M samples of the ImageSet, R samples or rows of some blocks, D feature dimensions, B batch.


class FeatureWriter:
    """Takes the samples of an extraction and commits them block by block; made by ``FeatureStore.writer``.

    Each sample is offered first, with its content, where that is known: one whose row is in the store already, or on
    its way there, is not needed. Those that are needed are appended. A context manager: leaving it completes the set
    if every block is committed, by this writer or others, and otherwise leaves it to be resumed; samples of blocks
    that are not full are dropped then. A set of which every sample failed raises DecodeError instead of becoming
    complete. One thread may offer while another appends. Shards are written in the background; what goes wrong there is
    raised by the next ``append``, at the latest by ``close``.
    """

    provenance: dict[str, Any]
    """JSON-able; may be added to until the writer is closed."""

    plan: Plan
    """The samples, and what embeds them."""

    key: FeatureKey | None = None
    """The key of the complete set, once this writer was closed and every block is committed."""

    num_embedded: int = 0
    """Number of rows that the extraction embedded, by this writer, others and earlier runs; known with ``key``."""

    def __init__(
        self,
        objects: Objects,
        plan: Plan,
        *,
        provenance: Mapping[str, Any],
        blocks: range | None = None,
        contents_of: ContentsOfIds | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._objects = objects
        self.plan = plan
        self._blocks = range(plan.num_blocks) if blocks is None else blocks
        if not self._blocks or self._blocks.start < 0 or self._blocks.stop > plan.num_blocks or self._blocks.step != 1:
            raise InputError(f"expected a range of blocks within 0 to {plan.num_blocks}, got {self._blocks}")
        self.provenance = dict(provenance)
        self._guard = threading.RLock()
        self._folder = RowsFolder.of(objects, plan)
        self._known = KnownRows(objects, plan.embedding, self._folder, log=log)
        self._states = SampleStates(plan.num_samples, self._known)
        self._claim = objects.claim(self._folder.lock, self._blocks)
        try:
            self._set_up()
            records = drop_damaged(objects, plan, self._folder, self._blocks, log=log)
            self._known.gather(contents_of, failures=not plan.retry_failed, own_records=records)
            covered = {block for record in records.valid for block in record.blocks}
        except BaseException:
            self._release()
            raise
        self._committer = ShardCommitter(in_flight=shards_in_flight(plan.codec.size(plan.shard_rows)))
        self._began_empty = not covered
        whole = len(self._blocks) == plan.num_blocks
        self._columns = self._committer.compute(partial(EncodedColumns.of, plan.columns)) if whole else None
        """The columns of the plan; None where others have blocks too, of whom the last completes the set."""
        self._records: list[CommitRecord] | None = [] if whole and not covered else None
        """The records of the folder; None where some are of others, or of an earlier run."""
        self._is_finished = False
        self._waiting = WaitingBlocks(plan, (block for block in self._blocks if block not in covered))

    @property
    def missing_blocks(self) -> tuple[int, ...]:
        """Return the blocks of this writer's range that are not committed yet."""
        return self._waiting.numbers

    @property
    def missing_samples(self) -> NDArray[np.int64]:
        """Return the samples still to come, increasing."""
        return self._waiting.missing_samples

    def offer(self, samples_B: NDArray[np.int64], contents_B3: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which of these missing samples are needed, (B,), given their contents.

        A sample that is not needed is done with. UNKNOWN contents are always needed, and offered again once they are
        known; other contents are offered once.
        """
        with self._guard:
            done_B = self._states.offer(samples_B, contents_B3)
            self._waiting.settle(samples_B[done_B])
            return ~done_B

    def append(
        self,
        samples_B: NDArray[np.int64] | Sequence[int],
        features_BD: NDArray[Any],
        failed: Mapping[int, str] | None = None,
    ) -> None:
        """Take the features of some needed samples, and the reasons of samples that have none.

        Each must come exactly once, here or in ``failed``. A shape or dtype other than planned, a sample that comes
        twice or is not missing raises InputError, and then nothing of the call is taken. Raises StoreError if a shard
        that became full in an earlier call could not be written.
        """
        samples = np.asarray(samples_B, dtype=np.int64)
        failed = dict(failed or {})
        with self._guard:
            self._committer.check()
            self._check_shape(samples, features_BD)
            failures = np.fromiter(failed, dtype=np.int64)
            self._waiting.check_missing(np.concatenate([samples, failures]) if failed else samples)
            if not all(failed.values()):
                raise InputError("a failed sample needs a reason, got an empty one")
            self._states.not_finite_M[samples] = not_finite_rows(features_BD)
            self._waiting.fill(samples, features_BD)
            self._states.fail(failed)
            self._waiting.settle(failures)
            self._commit_full_blocks()

    def complete(self) -> None:
        """Complete the set if every block of it is committed; nothing can be appended any more, and ``close`` is due.

        Sets of several writers may be completed at once, each on a thread of its own.
        """
        if self._is_finished:
            return
        with self._guard, self._committer:
            self._commit_full_blocks(last=True)
            draft = None
            if not self._waiting.numbers and self._columns is not None:  # the last shards are still on their way
                draft = SetDraft(self.plan, self._columns.result(), self._states.contents_M3)
        if not self._waiting.numbers:
            with self._whole_folder():
                completed = complete(self._objects, self.plan, self._folder, self.provenance, draft, self._records)
            if completed is not None:
                self.key, self.num_embedded = completed
        self._is_finished = True

    def close(self) -> None:
        """Complete the set, unless ``complete`` has, then release the claim on the blocks."""
        try:
            self.complete()
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self._committer.close()
        finally:
            self._release()

    def _set_up(self) -> None:
        """Set the folder up unless another writer has, then check that it has the same plan."""
        if self._folder.plan_content() is None:
            with self._whole_folder():
                if self._folder.plan_content() is None:
                    self._folder.set_up(self.plan, provenance=self.provenance)
        self._folder.check_plan(self.plan)

    def _release(self) -> None:
        """Let others have the blocks and the sources, and remove what nobody needs: an empty folder, or its lock."""
        self._claim.release()
        self._known.release()
        with suppress(StoreBusyError), self._folder.claim_everything():
            if self._folder.is_closed:
                self._objects.delete(self._folder.lock)
            elif self.key is not None or not self._folder.committed():  # no set needs what is here
                free(self._objects, self._folder)

    def _whole_folder(self) -> Claim:
        """Wait for, then return, the claim with which one writer at a time sets up a folder or completes its set."""
        return claim_when_free(self._objects, self._folder.lock, WHOLE_KEY)

    def _check_shape(self, samples_B: NDArray[np.int64], features_BD: NDArray[Any]) -> None:
        expected = (len(samples_B), self.plan.feature_dim), self.plan.embedding.dtype
        if (features_BD.shape, str(features_BD.dtype)) != expected:
            raise InputError(
                f"expected features of shape {expected[0]} and dtype {expected[1]}, "
                f"got {features_BD.shape} and {features_BD.dtype}"
            )

    def _commit_full_blocks(self, *, last: bool = False) -> None:
        for run in self._waiting.full_runs(self._states.waits, last=last):
            self._commit(run)

    def _commit(self, run: Sequence[int]) -> None:
        """Begin to write the new rows of some consecutive blocks as one shard, and what became of all their samples."""
        buffers = self._waiting.take(run)
        new = np.concatenate([buffer.new_samples for buffer in buffers])
        features = [buffer.new_features for buffer in buffers if buffer.num_new]
        features_RD = features[0] if len(features) == 1 else np.concatenate([buffers[0].new_features[:0], *features])
        self._refuse_if_none_finite(new)
        first_row, samples = run[0] * self.plan.shard_rows, self.plan.samples(range(run[0], run[-1] + 1))
        self._states.place(new, first_row, within=samples)
        record = self._record(run, samples, len(new), max(buffer.seconds for buffer in buffers))
        if self._records is not None:
            self._records.append(record)
        if not record.refers_only_to(range(first_row, first_row + len(new))):
            self._committer.finish()  # the rows of equal samples are in shards that may be on their way still
        self._committer.submit(partial(self._write, record, features_RD, buffers))
        self._states.publish(new, within=samples)

    def _write(self, record: CommitRecord, features_RD: NDArray[Any], buffers: Sequence[BlockBuffer]) -> None:
        self._claim.check()
        self._folder.commit(record, features_RD, self.plan.codec)
        self._waiting.give_back(buffers)

    def _record(self, run: Sequence[int], samples: range, num_rows: int, seconds: float) -> CommitRecord:
        states, within = self._states, slice(samples.start, samples.stop)
        numbers, index_R = np.unique(states.source_M[within], return_inverse=True)
        elsewhere = [number for number in numbers.tolist() if number > OWN]
        local = np.array([number if number <= OWN else 1 + elsewhere.index(number) for number in numbers.tolist()])
        return CommitRecord(
            job=self.plan.job,
            blocks=range(run[0], run[-1] + 1),
            samples=samples,
            num_rows=num_rows,
            contents_R3=states.contents_M3[within],
            sources=tuple(self._known.path(number) for number in elsewhere),
            source_R=local[index_R].astype(np.int32),
            row_R=states.row_M[within],
            failed={sample: states.failed[sample] for sample in states.failed_within(samples)},
            num_not_finite=int(states.not_finite_M[within].sum()),
            seconds=seconds,
        )

    def _refuse_if_none_finite(self, new: NDArray[np.int64]) -> None:
        """Raise InputError if no row of the first shard is finite; the others would hardly be better."""
        if self._began_empty and len(new) and self._states.not_finite_M[new].all():
            embedding = self.plan.embedding
            raise InputError(
                f"{embedding.label} on {self.plan.dataset}: all of the first {len(new)} features are NaN or "
                f"infinite, and none were stored; {not_finite_advice(embedding)}"
            )
        self._began_empty = False
