"""KeyGroup: all objects of one key in a store, as its writers read and write them.

The order of writes makes a kill at any moment harmless: the columns, then the plan; a shard, then its commit record;
``failed``, then the group's metadata, whose presence makes the key complete. Each write is durable before the next
begins.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from penultimate.store.errors import DecodeError, InputError, StoreBusyError
from penultimate.store.format import layout
from penultimate.store.format.arrays import column_objects, features_metadata
from penultimate.store.format.documents import COMMIT, FEATURE_SET, PLAN, plain_group_document
from penultimate.store.format.layout import Strings
from penultimate.store.objects.objects import Objects
from penultimate.store.plan import Plan
from penultimate.store.provenance import utc_now
from penultimate.store.writer.row_summary import RowSummary
from penultimate.store.writer.shard_buffer import ShardBuffer

# Shapes: M samples of the ImageSet.


class KeyGroup:
    """The group of ``plan.key`` in a store. Who may call what is decided by claims, which the writer holds."""

    def __init__(self, objects: Objects, plan: Plan) -> None:
        self._objects = objects
        self._plan = plan
        self._path = plan.key.path
        self._codec = plan.codec

    @property
    def is_complete(self) -> bool:
        """Return whether the key is complete, so that readers see it."""
        return self._objects.exists(f"{self._path}/{layout.METADATA}")

    @property
    def is_all_committed(self) -> bool:
        """Return whether every shard of the key has a record; cheap enough to ask before claiming the whole key."""
        return self.is_complete or len(self._committed_shards()) == self._plan.num_shards

    @property
    def plan_document(self) -> bytes | None:
        """Return the stored plan, or None if the key was not set up yet."""
        return self._objects.get(f"{self._path}/{layout.PLAN_OBJECT}")

    def check_plan(self, document: bytes) -> None:
        """Raise InputError, saying what differs, if the stored plan is not this one."""
        where = self._objects.where(f"{self._path}/{layout.PLAN_OBJECT}")
        there, content = PLAN.read(document, where), self._plan.content()
        if changed := [name for name in content if content[name] != there.get(name)]:
            raise InputError(
                f"{self._objects.where(self._path)} was begun with "
                + ", ".join(f"{name} {_short(there.get(name))} and now has {_short(content[name])}" for name in changed)
                + "; remove it with `penultimate store rm` to start it anew"
            )

    def set_up(self) -> bytes:
        """Write the columns, then the plan, which says that they are there; returns the plan's document."""
        plan = self._plan
        above = [f"{parent}/{layout.METADATA}" for parent in _parents(self._path)]
        objects = {name: plain_group_document() for name in above if not self._objects.exists(name)}
        objects[f"{self._path}/{layout.FEATURES}/{layout.METADATA}"] = features_metadata(plan.num_rows, plan.codec)
        columns = {layout.IDS: plan.ids_M, layout.LABELS: plan.labels_M, layout.SPLIT: plan.split_M}
        for name, values_M in columns.items():
            objects |= self._column(name, values_M)
        self._objects.put_many(objects)
        document = PLAN.document(plan.content())
        if self._objects.put_new(f"{self._path}/{layout.PLAN_OBJECT}", document):
            return document
        raise StoreBusyError(f"{self._objects.where(self._path)} was set up by another writer meanwhile; run again")

    def records(self, shards: range) -> dict[int, dict[str, Any]]:
        """Return the valid commit records of ``shards`` by shard; a shard whose record is invalid is redone."""
        there = [shard for shard in self._committed_shards() if shard in shards]
        documents = self._objects.get_many([f"{self._path}/{layout.commit_object(shard)}" for shard in there])
        found = {
            shard: self._valid_record(shard, document or b"") for shard, document in zip(there, documents, strict=True)
        }
        return {shard: record for shard, record in found.items() if record is not None}

    def commit(self, shard: int, buffer: ShardBuffer, seconds: float) -> None:
        """Write a full shard, which took so many seconds to fill, then its commit record; safe in several threads.

        Raises StoreBusyError if another writer took the shard over.
        """
        summary = RowSummary()
        parts = self._codec.encode(buffer.features_RD, summary.add)
        record = {
            "key": self._plan.key.digest,
            "shard": shard,
            "rows": [buffer.rows.start, buffer.rows.stop],
            "ids": self._plan.ids_checksum(shard),
            "features": summary.checksum,
            "failed": {str(row): buffer.failed[row] for row in sorted(buffer.failed)},
            "num_not_finite": summary.num_not_finite - len(buffer.failed),
            "seconds": seconds,
        }
        self._objects.commit(
            f"{self._path}/{layout.shard_object(shard)}",
            parts,
            f"{self._path}/{layout.commit_object(shard)}",
            COMMIT.document(record),
            is_record=lambda document: self._valid_record(shard, document) is not None,
        )

    def complete(self, provenance: Mapping[str, Any]) -> None:
        """Make the key visible to readers if all shards are committed, else do nothing; DecodeError if all rows failed.

        ``provenance`` is JSON-able.
        """
        if self.is_complete:
            return
        records = self.records(range(self._plan.num_shards))
        if len(records) < self._plan.num_shards:
            return
        failed_M = self._failed_column(records)
        self._objects.put_many(self._column(layout.FAILED, failed_M))
        self._objects.delete_leftovers(self._path)
        documents = {name: self._array_document(name) for name in (layout.FEATURES, *layout.COLUMNS)}
        content = self._completed_content(records, failed_M) | {
            "provenance": dict(provenance),
            "array_metadata": {name: layout.bytes_checksum(document) for name, document in documents.items()},
        }
        arrays = {name: json.loads(document) for name, document in documents.items()}
        self._objects.put(f"{self._path}/{layout.METADATA}", FEATURE_SET.document(content, arrays=arrays))

    def _column(self, name: str, values_M: NDArray[Any]) -> dict[str, bytes]:
        """Return the objects of a column by their full name."""
        return {f"{self._path}/{name}/{part}": content for part, content in column_objects(name, values_M).items()}

    def _committed_shards(self) -> list[int]:
        """Return the shards that have a record, valid or not."""
        return layout.committed_shards(self._objects.records(f"{self._path}/{layout.COMMITS}"))

    def _valid_record(self, shard: int, document: bytes) -> dict[str, Any] | None:
        try:
            record = COMMIT.content(document)
        except ValueError:
            return None
        same = record["key"] == self._plan.key.digest and record["ids"] == self._plan.ids_checksum(shard)
        return record if same else None

    def _failed_column(self, records: Mapping[int, Mapping[str, Any]]) -> Strings:
        failed_M = layout.variable_width([""] * self._plan.num_rows)
        for record in records.values():
            for row, reason in record["failed"].items():
                failed_M[int(row)] = reason
        if (failed_M != "").all():
            raise DecodeError(
                f"none of the {self._plan.num_rows} images of {self._plan.key.dataset} could be decoded; the first, "
                f"{self._plan.ids_M[0]}: {failed_M[0]}"
            )
        return failed_M

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
        }

    def _array_document(self, name: str) -> bytes:
        document = self._objects.get(f"{self._path}/{name}/{layout.METADATA}")
        assert document is not None, "it was written when the key was set up"
        return document


def _parents(path: str) -> Iterator[str]:
    """Yield the groups above a key, outermost first, without the store itself."""
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
