"""FeatureWriter: rows of features in, committed shards out; a key becomes visible only when it is complete."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError, StoreBusyError
from penultimate.store.format import layout
from penultimate.store.not_finite import not_finite_advice
from penultimate.store.objects.claim import WHOLE_KEY
from penultimate.store.objects.objects import Objects
from penultimate.store.plan import Plan
from penultimate.store.slices import slice_if_contiguous
from penultimate.store.writer.key_group import KeyGroup
from penultimate.store.writer.shard_buffer import ShardBuffer
from penultimate.store.writer.shard_committer import ShardCommitter, shards_in_flight

# Shapes: D feature dimensions, B batch.


class FeatureWriter:
    """Takes rows in any order and writes each shard when its last row has come; made by ``FeatureStore.writer``.

    Shards are written in the background; what goes wrong there is raised by the next call, at the latest by ``close``.
    A context manager: leaving it completes the key if every shard is committed, by this writer or others, and
    otherwise leaves it to be resumed; rows of shards that are not full are dropped then. A key of which every row
    failed raises DecodeError instead of becoming complete. Not safe for use by several threads.
    """

    provenance: dict[str, Any]
    """JSON-able; may be added to until the writer is closed."""

    def __init__(
        self, objects: Objects, plan: Plan, *, provenance: Mapping[str, Any], shard_range: range | None
    ) -> None:
        self._objects = objects
        self._plan = plan
        self._lock = f"{plan.key.path}/{layout.LOCK}"
        self._shards = range(plan.num_shards) if shard_range is None else shard_range
        if not self._shards or self._shards.start < 0 or self._shards.stop > plan.num_shards or self._shards.step != 1:
            raise InputError(f"expected a range of shards within 0 to {plan.num_shards}, got {self._shards}")
        self.provenance = dict(provenance)
        self._buffers: dict[int, ShardBuffer] = {}
        self._free_memory: list[NDArray[Any]] = []
        self._group = KeyGroup(objects, plan)
        self._claim = objects.claim(self._lock, self._shards)
        try:
            self._set_up()
            committed = self._group.records(self._shards)
        except BaseException:
            self._claim.release()
            raise
        self._missing = dict.fromkeys(shard for shard in self._shards if shard not in committed)
        self._failed = {int(row): why for record in committed.values() for row, why in record["failed"].items()}
        self._committer = ShardCommitter(in_flight=shards_in_flight(plan.codec.size(plan.shard_rows)))

    @property
    def missing_shards(self) -> tuple[int, ...]:
        """Return the shards of this writer's range whose rows have not all come yet, nor been committed before."""
        return tuple(self._missing)

    @property
    def missing_rows(self) -> NDArray[np.int64]:
        """Return the rows of the missing shards, increasing, including those already appended."""
        rows = [np.array(self._plan.rows(shard), dtype=np.int64) for shard in self._missing]
        return np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)

    @property
    def failed(self) -> dict[int, str]:
        """Return the reason for each row of this writer's shards known to have no features, by row."""
        return dict(sorted(self._failed.items()))

    @property
    def num_failed(self) -> int:
        """Return the number of rows in ``failed``."""
        return len(self._failed)

    @property
    def is_complete(self) -> bool:
        """Return whether the key is complete, so that readers see it."""
        return self._group.is_complete

    def append(
        self,
        rows_B: NDArray[np.int64] | Sequence[int],
        features_BD: NDArray[Any],
        failed: Mapping[int, str] | None = None,
    ) -> None:
        """Take the features of some rows, and the reasons of rows that have none.

        Each missing row must come exactly once, here or in ``failed``. A shape or dtype other than planned, a row
        that comes twice or a row that is not missing raises InputError, and then nothing of the call is taken. Raises
        StoreError if a shard that became full in an earlier call could not be written.
        """
        self._committer.check()
        rows = np.asarray(rows_B, dtype=np.int64)
        failed = dict(failed or {})
        self._check_shape(rows, features_BD)
        self._check_rows(np.concatenate([rows, np.fromiter(failed, dtype=np.int64)]))
        if not all(failed.values()):
            raise InputError("a failed row needs a reason, got an empty one")
        for shard, part in self._by_shard(rows):
            self._buffer(shard).fill(rows[part], features_BD[part])
        for row, reason in failed.items():
            self._buffer(row // self._plan.shard_rows).fail(row, reason)
        self._failed |= failed
        for shard in sorted(shard for shard, buffer in self._buffers.items() if buffer.is_full):
            self._commit(shard)

    def close(self) -> None:
        """Complete the key if every shard of it is committed, then release the claim on the shards."""
        try:
            with self._committer:
                self._committer.finish()
            if not self._missing and self._group.is_all_committed:
                with self._whole_key():
                    self._group.complete(self.provenance)
        finally:
            self._claim.release()

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
            self._claim.release()

    @contextmanager
    def _whole_key(self) -> Iterator[None]:
        """Wait for, then hold, the claim with which only one writer at a time sets up or completes a key."""
        while True:
            try:
                claim = self._objects.claim(self._lock, WHOLE_KEY)
            except StoreBusyError:
                time.sleep(self._objects.poll_seconds)
                continue
            with claim:
                yield
                if self.is_complete:  # nobody needs the lock any more, even if taking this claim created it anew
                    self._objects.delete(self._lock)
            return

    def _set_up(self) -> None:
        """Set the key up unless another writer has, then check that it has the same plan."""
        if (document := self._group.plan_document) is None:
            with self._whole_key():
                if (document := self._group.plan_document) is None:
                    document = self._group.set_up()
        self._group.check_plan(document)

    def _check_shape(self, rows_B: NDArray[np.int64], features_BD: NDArray[Any]) -> None:
        expected = (len(rows_B), self._plan.feature_dim), self._plan.key.dtype
        if (features_BD.shape, str(features_BD.dtype)) != expected:
            raise InputError(
                f"expected features of shape {expected[0]} and dtype {expected[1]}, "
                f"got {features_BD.shape} and {features_BD.dtype}"
            )

    def _check_rows(self, rows: NDArray[np.int64]) -> None:
        rows = np.sort(rows)
        if len(repeated := rows[1:][rows[1:] == rows[:-1]]):
            raise InputError(f"rows {np.unique(repeated)[:10].tolist()} came more than once")
        if unexpected := [row for shard, part in self._by_shard(rows) for row in self._not_missing(shard, rows[part])]:
            raise InputError(
                f"rows {unexpected[:10]} were not missing: expected rows of the shards {list(self._missing)[:10]} "
                f"({self._plan.shard_rows} rows each) that have not come yet"
            )

    def _by_shard(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, slice | NDArray[np.int64]]]:
        """Yield the shards that some rows are of, increasing, and which of the rows these are."""
        shards = rows // self._plan.shard_rows
        if len(rows) and (shards == shards[0]).all():
            yield int(shards[0]), slice(None)
            return
        for shard in np.unique(shards).tolist():
            yield shard, slice_if_contiguous(np.flatnonzero(shards == shard))

    def _not_missing(self, shard: int, rows: NDArray[np.int64]) -> list[int]:
        """Return those of some rows of one shard that are not expected, or not any more."""
        if shard in self._buffers:
            rows = rows[~self._buffers[shard].misses(rows)]
        elif shard in self._missing:
            rows = rows[rows >= self._plan.num_rows]
        return [int(row) for row in rows]

    def _buffer(self, shard: int) -> ShardBuffer:
        if shard not in self._buffers:
            memory = self._free_memory.pop() if self._free_memory else None
            self._buffers[shard] = ShardBuffer(self._plan, shard, memory=memory)
        return self._buffers[shard]

    def _commit(self, shard: int) -> None:
        """Begin to commit a full shard in the background."""
        buffer = self._buffers[shard]
        if len(self._missing) == len(self._shards):
            self._refuse_if_none_finite(buffer)
        self._committer.submit(partial(self._write, shard, buffer, buffer.seconds))
        del self._buffers[shard]
        del self._missing[shard]

    def _write(self, shard: int, buffer: ShardBuffer, seconds: float) -> None:
        self._claim.check()
        self._group.commit(shard, buffer, seconds)
        self._free_memory.append(buffer.memory)

    def _refuse_if_none_finite(self, buffer: ShardBuffer) -> None:
        """Raise InputError if no row of this writer's first shard is finite; the others would hardly be better."""
        num_decoded = len(buffer.rows) - len(buffer.failed)
        if num_decoded and buffer.num_not_finite == num_decoded:
            key = self._plan.key
            raise InputError(
                f"{key.backbone} on {key.dataset}: all of the first {num_decoded} features are NaN or infinite, and "
                f"none were stored; {not_finite_advice(key)}"
            )
