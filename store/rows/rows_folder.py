"""RowsFolder: all objects of the rows that one extraction embeds, as its writers read and write them.

The order of writes makes a kill at any moment harmless: the array's metadata, then the plan; a shard, then its commit
record; the set, then the closing record. Each write is durable before the next begins.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import xxhash
from numpy.typing import NDArray

from penultimate.store.errors import InputError, StoreBusyError
from penultimate.store.format import layout
from penultimate.store.format.arrays import features_metadata
from penultimate.store.format.documents import CLOSED, COMMIT, PLAN, plain_group_document
from penultimate.store.format.shard_codec import ShardCodec
from penultimate.store.objects.claim import EVERYTHING, Claim
from penultimate.store.objects.objects import Objects
from penultimate.store.plan import Plan
from penultimate.store.rows.record import CommitRecord

# Shapes: R rows of a shard, D feature dimensions.


class FolderRecords(NamedTuple):
    """The records that a folder had when they were read."""

    valid: list[CommitRecord]
    """In the order of their blocks."""

    damaged: list[int]
    """Numbers of those that are not valid, increasing."""


class RowsFolder:
    """The folder at ``path``, which need not exist. Who may call what is decided by claims, which the caller holds."""

    def __init__(self, objects: Objects, path: str) -> None:
        self._objects = objects
        self.path = path

    @classmethod
    def of(cls, objects: Objects, plan: Plan) -> Self:
        """Return the folder into which this plan's extraction writes: the one it began, or else a new one."""
        parts = (layout.rows_folder_parts(name) for name in objects.folders(plan.folder))
        number = max((found[1] for found in parts if found and found[0] == plan.job), default=0)
        last = cls(objects, f"{plan.folder}/{layout.rows_folder(plan.job, number)}")
        return cls(objects, f"{plan.folder}/{layout.rows_folder(plan.job, number + 1)}") if last.is_closed else last

    @property
    def lock(self) -> str:
        """Return the name of the object through which blocks of this folder are claimed."""
        return f"{self.path}/{layout.LOCK}"

    @property
    def is_closed(self) -> bool:
        """Return whether a set was made of these rows, so that nothing is written here any more."""
        return self._objects.exists(f"{self.path}/{layout.CLOSED_OBJECT}")

    def plan_content(self) -> dict[str, Any] | None:
        """Return the content of the stored plan, or None if nothing was set up here.

        Raises CorruptFeaturesError where it is damaged.
        """
        name = f"{self.path}/{layout.PLAN_OBJECT}"
        document = self._objects.get(name)
        return None if document is None else PLAN.read(document, self._objects.where(name))

    def check_plan(self, plan: Plan) -> None:
        """Raise InputError, saying what differs, if the stored plan is not this one."""
        there, content = self.plan_content() or {}, plan.content()
        if changed := [name for name in content if content[name] != there.get(name)]:
            raise InputError(
                f"{self._objects.where(self.path)} was begun with "
                + ", ".join(f"{name} {_short(there.get(name))} and now has {_short(content[name])}" for name in changed)
                + "; remove it with `penultimate store rm` to start it anew"
            )

    def set_up(self, plan: Plan, *, provenance: Mapping[str, Any]) -> None:
        """Write the groups and the array's metadata, then the plan, which says that they are there."""
        metadata = features_metadata(plan.num_samples, plan.codec)
        groups = [f"{group}/{layout.METADATA}" for group in _groups(self.path)]
        objects = {name: plain_group_document() for name in groups if not self._objects.exists(name)}
        self._objects.put_many(objects | {f"{self.path}/{layout.FEATURES}/{layout.METADATA}": metadata})
        about = {"array_metadata": layout.bytes_checksum(metadata), "provenance": dict(provenance)}
        document = PLAN.document(plan.content() | about)
        if not self._objects.put_new(f"{self.path}/{layout.PLAN_OBJECT}", document):
            raise StoreBusyError(f"{self._objects.where(self.path)} was set up by another writer meanwhile; run again")

    def shards(self) -> set[int]:
        """Return the shards that exist."""
        names = self._objects.folders(f"{self.path}/{layout.FEATURES}/c")
        return {int(name) for name in names if name.isdecimal()}

    def delete_shards(self, shards: Iterable[int]) -> None:
        """Remove some shards and their records."""
        for shard in shards:
            self._objects.delete(f"{self.path}/{layout.commit_object(shard)}")
            self._objects.delete_folder(f"{self.path}/{layout.FEATURES}/c/{shard}")

    def size(self) -> int:
        """Return the bytes of all objects here, but for those through which blocks are claimed."""
        claims = (self.lock, f"{self.lock}.leases")
        return self._objects.size(self.path) - sum(self._objects.size(name) for name in claims)

    def committed(self) -> list[int]:
        """Return the increasing numbers of the records, valid or not."""
        return layout.committed_shards(self._objects.records(f"{self.path}/{layout.COMMITS}"))

    def records(self) -> list[CommitRecord]:
        """Return the valid records in the order of their blocks; blocks whose record is invalid are done again."""
        return self.read_records().valid

    def read_records(self) -> FolderRecords:
        """Read all records, a request for each in an object store."""
        numbers = self.committed()
        documents = self._objects.get_many([f"{self.path}/{layout.commit_object(number)}" for number in numbers])
        found = {number: self._valid(document or b"") for number, document in zip(numbers, documents, strict=True)}
        return FolderRecords(
            valid=[record for record in found.values() if record is not None],
            damaged=[number for number, record in found.items() if record is None],
        )

    def commit(self, record: CommitRecord, features_RD: NDArray[Any], codec: ShardCodec) -> None:
        """Write a shard, if it has rows, then its record; several threads may do so at once.

        Raises StoreBusyError if another writer took the shard over.
        """
        number = record.blocks.start
        name = f"{self.path}/{layout.commit_object(number)}"
        if not record.num_rows:
            self._put_record(name, COMMIT.document(record.content() | {"features": ""}))
            return
        checksum = xxhash.xxh3_128()
        # While a chunk is encoded the processor's cache holds it: another pass over the shard would take as long again.
        parts = codec.encode(features_RD, lambda rows_BD: checksum.update(rows_BD.data))
        self._objects.commit(
            f"{self.path}/{layout.shard_object(number)}",
            parts,
            name,
            COMMIT.document(record.content() | {"features": checksum.hexdigest()}),
            is_record=lambda document: self._valid(document) is not None,
        )

    def close(self, set_path: str) -> None:
        """Record that the set at ``set_path`` was made of these rows."""
        self._objects.delete_leftovers(self.path)
        self._objects.put(f"{self.path}/{layout.CLOSED_OBJECT}", CLOSED.document({"set": set_path}))

    def claim_everything(self) -> Claim:
        """Claim the whole folder, against every writer and everyone who refers to its rows."""
        return self._objects.claim(self.lock, EVERYTHING)

    def delete(self) -> None:
        """Remove the folder; a kill in between leaves one that is unfinished, and holds what it has records of."""
        self._objects.delete(f"{self.path}/{layout.CLOSED_OBJECT}")
        self.delete_shards(self.committed())
        self._objects.delete_folder(self.path)

    def _put_record(self, name: str, document: bytes) -> None:
        """Write a record that has no shard, unless another writer has written a valid one."""
        if self._objects.put_new(name, document):
            return
        if self._valid(self._objects.get(name) or b"") is not None:
            raise StoreBusyError(f"{self._objects.where(name)} was written by another writer meanwhile; run again")
        self._objects.put(name, document)

    def _valid(self, document: bytes) -> CommitRecord | None:
        try:
            record = CommitRecord.of(COMMIT.content(document))
        except (ValueError, KeyError):
            return None
        name = layout.rows_folder_parts(self.path.rpartition("/")[2])
        return record if name is not None and record.job == name[0] else None


def _groups(path: str) -> Iterator[str]:
    """Yield the groups above a folder, outermost first, without the store itself, and the folder."""
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
