"""FeatureWriter: rows of features in, whole shards with their commit records out; complete at once or not at all.

The order of writes is what makes a kill at any moment harmless: the columns, then the plan; a shard, then its
commit record; ``failed``, then the group's metadata, by whose presence a key is complete. Each is on the disk
before the next is begun.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import DecodeError, InputError, StoreBusyError
from penultimate.store.format import layout
from penultimate.store.format.arrays import ShardEncoder, column_objects
from penultimate.store.format.documents import COMMIT, FEATURE_SET, PLAN, plain_group_document
from penultimate.store.format.layout import Strings
from penultimate.store.not_finite import not_finite_advice
from penultimate.store.objects.claim import WHOLE_KEY
from penultimate.store.objects.objects import Objects
from penultimate.store.plan import Plan
from penultimate.store.provenance import utc_now

# Shapes: M samples of the ImageSet, D feature dimensions, B batch, R rows of one shard.


@dataclass(eq=False)
class _Draft:
    """A shard that is being filled."""

    features_RD: NDArray[Any]
    todo_R: NDArray[np.bool_]
    failed: dict[int, str] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)


class FeatureWriter:
    """Takes rows in any order and writes each shard when its last row has come; made by ``FeatureStore.writer``.

    A context manager: leaving it completes the key if every shard is committed, by this writer or others, and
    otherwise leaves it to be resumed; rows of shards that are not full are dropped then. A key of which every row
    failed raises DecodeError instead of becoming complete; a first shard without one finite row raises InputError
    instead of being committed. Not for several threads.
    """

    provenance: dict[str, Any]
    """JSON-able; may be added to until the writer is closed."""

    def __init__(
        self, objects: Objects, plan: Plan, *, provenance: Mapping[str, Any], shard_range: range | None
    ) -> None:
        self._objects = objects
        self._plan = plan
        self._path = plan.key.path
        self._shards = range(plan.num_shards) if shard_range is None else shard_range
        if not self._shards or self._shards.start < 0 or self._shards.stop > plan.num_shards or self._shards.step != 1:
            raise InputError(f"expected a range of shards within 0 to {plan.num_shards}, got {self._shards}")
        self.provenance = dict(provenance)
        self._drafts: dict[int, _Draft] = {}
        self._encoder = ShardEncoder(plan)
        self._claim = objects.claim(f"{self._path}/{layout.LOCK}", self._shards)
        try:
            self._set_up()
            committed = self._records(self._shards)
        except BaseException:
            self._claim.release()
            raise
        self._missing = dict.fromkeys(shard for shard in self._shards if shard not in committed)
        self._failed = {int(row): why for record in committed.values() for row, why in record["failed"].items()}

    @property
    def missing_shards(self) -> tuple[int, ...]:
        """Shards of this writer's range that have no commit record yet."""
        return tuple(self._missing)

    @property
    def missing_rows(self) -> NDArray[np.int64]:
        """Rows of those shards, increasing: what is left to append, apart from what already was."""
        rows = [np.array(self._plan.rows(shard), dtype=np.int64) for shard in self._missing]
        return np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)

    @property
    def failed(self) -> dict[int, str]:
        """Row -> reason, of the rows of this writer's shards known to have no features, by row."""
        return dict(sorted(self._failed.items()))

    @property
    def num_failed(self) -> int:
        """How many rows those are."""
        return len(self._failed)

    @property
    def is_complete(self) -> bool:
        """Whether the key is complete, so that readers see it."""
        return self._objects.exists(f"{self._path}/{layout.METADATA}")

    def append(
        self,
        rows_B: NDArray[np.int64] | Sequence[int],
        features_BD: NDArray[Any],
        failed: Mapping[int, str] | None = None,
    ) -> None:
        """Take features of some rows, and rows that have none with the reason why.

        Each missing row must come exactly once, here or in ``failed``. Another shape or dtype than planned, a row
        twice or a row that is not missing raises InputError, and then nothing of the call is taken.
        """
        rows = np.asarray(rows_B, dtype=np.int64)
        failed = dict(failed or {})
        self._check(rows, features_BD, failed)
        shards = rows // self._plan.shard_rows
        for shard in np.unique(shards).tolist():
            of_shard = shards == shard
            draft = self._draft(shard)
            places = rows[of_shard] - self._plan.rows(shard).start
            draft.features_RD[places] = features_BD[of_shard]
            draft.todo_R[places] = False
        for row, reason in failed.items():
            draft = self._draft(row // self._plan.shard_rows)
            draft.failed[row] = reason
            self._failed[row] = reason
            draft.todo_R[row % self._plan.shard_rows] = False
        for shard in sorted(shard for shard, draft in self._drafts.items() if not draft.todo_R.any()):
            self._commit(shard)

    def close(self) -> None:
        """Complete the key if every shard of it is committed, then let go of the shards."""
        try:
            if not self._missing and self._all_committed():
                with self._whole_key():
                    self._complete()
        finally:
            self._claim.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._claim.release()

    @contextmanager
    def _whole_key(self) -> Iterator[None]:
        """Only one writer at a time sets up or completes a key; the others wait for it."""
        while True:
            try:
                claim = self._objects.claim(f"{self._path}/{layout.LOCK}", WHOLE_KEY)
            except StoreBusyError:
                time.sleep(self._objects.poll_seconds)
                continue
            with claim:
                yield
                if self.is_complete:  # nobody needs it any more, also where taking the claim made it anew
                    self._objects.delete(f"{self._path}/{layout.LOCK}")
            return

    def _set_up(self) -> None:
        """Write columns and plan, unless they are there; then check that they are the same."""
        plan_object = f"{self._path}/{layout.PLAN_OBJECT}"
        if (document := self._objects.get(plan_object)) is None:
            with self._whole_key():
                if (document := self._objects.get(plan_object)) is None:
                    document = self._write_plan(plan_object)
        there, content = PLAN.read(document, self._objects.where(plan_object)), self._plan.content()
        if changed := [name for name in content if content[name] != there.get(name)]:
            raise InputError(
                f"{self._objects.where(self._path)} was begun with "
                + ", ".join(f"{name} {_short(there.get(name))} and now has {_short(content[name])}" for name in changed)
                + "; remove it with `penultimate store rm` to start it anew"
            )

    def _write_plan(self, plan_object: str) -> bytes:
        """Columns, then the plan that says they are there."""
        for parent in _parents(self._path):
            if self._objects.get(f"{parent}/{layout.METADATA}") is None:
                self._objects.put(f"{parent}/{layout.METADATA}", plain_group_document())
        plan = self._plan
        for name, values_M in ((layout.IDS, plan.ids_M), (layout.LABELS, plan.labels_M), (layout.SPLIT, plan.split_M)):
            self._write_column(name, values_M)
        self._objects.put(f"{self._path}/{layout.FEATURES}/{layout.METADATA}", self._encoder.metadata)
        document = PLAN.document(plan.content())
        if self._objects.put_new(plan_object, document):
            return document
        raise StoreBusyError(f"{self._objects.where(self._path)} was set up by another writer meanwhile; run again")

    def _write_column(self, name: str, values_M: NDArray[Any]) -> None:
        found = column_objects(name, values_M)
        self._objects.put_many({f"{self._path}/{name}/{part}": content for part, content in found.items()})

    def _records(self, shards: range) -> dict[int, dict[str, Any]]:
        """Commit records of those of ``shards`` that have a valid one; a shard whose record is not valid is redone."""
        there = [shard for shard in self._committed_shards() if shard in shards]
        documents = self._objects.get_many([f"{self._path}/{layout.commit_object(shard)}" for shard in there])
        found = {
            shard: self._valid_record(shard, document or b"") for shard, document in zip(there, documents, strict=True)
        }
        return {shard: record for shard, record in found.items() if record is not None}

    def _committed_shards(self) -> list[int]:
        """Shards that have a record, valid or not."""
        return layout.committed_shards(self._objects.records(f"{self._path}/{layout.COMMITS}"))

    def _all_committed(self) -> bool:
        """Whether every shard of the key has a record: asked before the claim that only one writer can have."""
        return self.is_complete or len(self._committed_shards()) == self._plan.num_shards

    def _valid_record(self, shard: int, document: bytes) -> dict[str, Any] | None:
        try:
            record = COMMIT.content(document)
        except ValueError:
            return None
        same = record["key"] == self._plan.key.digest and record["ids"] == self._plan.ids_checksum(shard)
        return record if same else None

    def _check(self, rows_B: NDArray[np.int64], features_BD: NDArray[Any], failed: Mapping[int, str]) -> None:
        expected = (len(rows_B), self._plan.feature_dim), self._plan.key.dtype
        if (features_BD.shape, str(features_BD.dtype)) != expected:
            raise InputError(
                f"expected features of shape {expected[0]} and dtype {expected[1]}, "
                f"got {features_BD.shape} and {features_BD.dtype}"
            )
        rows = np.concatenate([rows_B, np.fromiter(failed, dtype=np.int64)])
        values, counts = np.unique(rows, return_counts=True)
        if (counts > 1).any():
            raise InputError(f"rows {values[counts > 1][:10].tolist()} came more than once")
        if not all(failed.values()):
            raise InputError("a failed row needs a reason, got an empty one")
        strangers = [row for row in values.tolist() if not self._is_missing(row)]
        if strangers:
            raise InputError(
                f"rows {strangers[:10]} were not missing: expected rows of the shards {list(self._missing)[:10]} "
                f"({self._plan.shard_rows} rows each) that have not come yet"
            )

    def _is_missing(self, row: int) -> bool:
        shard, place = divmod(row, self._plan.shard_rows)
        if row < 0 or row >= self._plan.num_rows or shard not in self._missing:
            return False
        return shard not in self._drafts or bool(self._drafts[shard].todo_R[place])

    def _draft(self, shard: int) -> _Draft:
        if shard not in self._drafts:
            num_rows = len(self._plan.rows(shard))
            self._drafts[shard] = _Draft(
                np.full((num_rows, self._plan.feature_dim), np.nan, dtype=self._plan.key.dtype),
                np.ones(num_rows, dtype=np.bool_),
            )
        return self._drafts[shard]

    def _commit(self, shard: int) -> None:
        draft, rows = self._drafts[shard], self._plan.rows(shard)
        num_not_finite = int((~np.isfinite(draft.features_RD).all(axis=1)).sum()) - len(draft.failed)
        self._refuse_if_all(num_not_finite, len(rows) - len(draft.failed))
        record = {
            "key": self._plan.key.digest,
            "shard": shard,
            "rows": [rows.start, rows.stop],
            "ids": self._plan.ids_checksum(shard),
            "features": layout.values_checksum(draft.features_RD),
            "failed": {str(row): draft.failed[row] for row in sorted(draft.failed)},
            "num_not_finite": num_not_finite,
            "seconds": time.perf_counter() - draft.started,
        }
        self._claim.check()
        self._objects.commit(
            f"{self._path}/{layout.shard_object(shard)}",
            self._encoder.encode(rows, draft.features_RD),
            f"{self._path}/{layout.commit_object(shard)}",
            COMMIT.document(record),
            is_record=lambda document: self._valid_record(shard, document) is not None,
        )
        del self._drafts[shard]
        del self._missing[shard]

    def _refuse_if_all(self, num_not_finite: int, num_decoded: int) -> None:
        """InputError if nothing of this writer's first shard is finite: then nothing of the others would be."""
        if len(self._missing) == len(self._shards) and num_decoded and num_not_finite == num_decoded:
            key = self._plan.key
            raise InputError(
                f"{key.backbone} on {key.dataset}: all of the first {num_decoded} features are NaN or infinite, and "
                f"none were stored; {not_finite_advice(key)}"
            )

    def _complete(self) -> None:
        if self.is_complete:
            return
        records = self._records(range(self._plan.num_shards))
        if len(records) < self._plan.num_shards:
            return
        failed_M = layout.variable_width([""] * self._plan.num_rows)
        for record in records.values():
            for row, reason in record["failed"].items():
                failed_M[int(row)] = reason
        if (failed_M != "").all():
            raise DecodeError(
                f"none of the {self._plan.num_rows} images of {self._plan.key.dataset} could be decoded; the first, "
                f"{self._plan.ids_M[0]}: {failed_M[0]}"
            )
        self._write_column(layout.FAILED, failed_M)
        self._objects.delete_leftovers(self._path)
        documents = {name: self._array_document(name) for name in (layout.FEATURES, *layout.COLUMNS)}
        content = self._completed_content(records, failed_M) | {
            "array_metadata": {name: layout.bytes_checksum(document) for name, document in documents.items()}
        }
        arrays = {name: json.loads(document) for name, document in documents.items()}
        self._objects.put(f"{self._path}/{layout.METADATA}", FEATURE_SET.document(content, arrays=arrays))

    def _completed_content(self, records: Mapping[int, Mapping[str, Any]], failed_M: Strings) -> dict[str, Any]:
        content = self._plan.content()
        content["checksums"] |= {
            layout.FAILED: layout.values_checksum(failed_M),
            layout.FEATURES: layout.shards_checksum(records),
        }
        return content | {
            "num_failed": sum(len(record["failed"]) for record in records.values()),
            "num_not_finite": sum(record["num_not_finite"] for record in records.values()),
            "shard_seconds": sum(record["seconds"] for record in records.values()),
            "created": utc_now(),
            "provenance": self.provenance,
        }

    def _array_document(self, name: str) -> bytes:
        document = self._objects.get(f"{self._path}/{name}/{layout.METADATA}")
        assert document is not None, "it was written when the key was set up"
        return document


def _parents(path: str) -> Iterator[str]:
    """Groups above a key, outermost first, the store itself left out."""
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
