"""Verify a store: read every byte of its keys again and report what differs from what was written.

Each of our documents carries a digest of itself and is compared to the byte; of groups, what is ours in them is. Zarr's
metadata and every column have a checksum in the group's attributes, every shard has one in its commit record.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.format.documents import COMMIT, FEATURE_SET, PLAN, Kind, without_attributes
from penultimate.store.format.reading import array_documents, read_array
from penultimate.store.key import FeatureKey
from penultimate.store.objects.objects import Objects


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One difference from what was written."""

    path: str
    """Path of the key, below the store."""

    object: str
    """Name, below the key, of the object or of the array as a whole."""

    rows: range | None
    """Rows on disk that are affected; None if it is not just some of them."""

    problem: str


def verify(store: FeatureStore) -> list[Finding]:
    """Return the findings about every key of a store, unfinished ones included; none if all is as written."""
    return [finding for path in store.paths() for finding in verify_key(store, path)]


def verify_key(store: FeatureStore, path: str) -> list[Finding]:
    """Return the findings about the key at ``path``; of an unfinished key, only committed shards are checked."""
    inspection = _Inspection(store.objects, path)
    inspection.run()
    return inspection.findings


class _Inspection:
    """A single pass over one key, which collects findings."""

    def __init__(self, objects: Objects, path: str) -> None:
        self._objects = objects
        self._path = path
        self._complete = objects.exists(f"{path}/{layout.METADATA}")
        self.findings: list[Finding] = []

    def run(self) -> None:
        if not self._complete and not self._objects.exists(f"{self._path}/{layout.PLAN_OBJECT}"):
            return  # ended before anything was committed
        plan = self._document(layout.PLAN_OBJECT, PLAN)
        group = self._document(layout.METADATA, FEATURE_SET) if self._complete else None
        content = group or plan
        if content is None:
            self._add(layout.FEATURES, "nothing says any more what should be here; nothing else was checked")
            return
        if FeatureKey(**content["key"]).path != self._path:
            self._add(layout.METADATA, f"belongs to {FeatureKey(**content['key']).path}")
        if group is not None and plan is not None and any(group[name] != plan[name] for name in _shared(plan)):
            self._add(layout.PLAN_OBJECT, "is another plan than the one this key was written by")
        names = [layout.IDS, layout.LABELS, layout.SPLIT, *([layout.FAILED] if self._complete else [])]
        for name in names:
            if self._metadata_holds(name, group):
                self._column(name, content["checksums"])
        self._shards(content, group, read=self._metadata_holds(layout.FEATURES, group))

    def _add(self, name: str, problem: str, rows: range | None = None) -> None:
        self.findings.append(Finding(path=self._path, object=name, rows=rows, problem=problem))

    def _document(self, name: str, kind: Kind, rows: range | None = None) -> dict[str, Any] | None:
        if (document := self._objects.get(f"{self._path}/{name}")) is None:
            self._add(name, "is missing", rows)
            return None
        try:
            arrays = partial(array_documents, self._objects, self._path) if kind.in_group else None
            return kind.content(document, arrays=arrays)
        except ValueError as error:
            self._add(name, str(error), rows)
            return None

    def _metadata_holds(self, name: str, group: dict[str, Any] | None) -> bool:
        """Return True if the array's metadata is as written; otherwise its values cannot be checked."""
        document = self._objects.get(f"{self._path}/{name}/{layout.METADATA}")
        if document is not None and (group is None or _is_as_written(document, group["array_metadata"][name])):
            return True
        problem = "is missing" if document is None else "a byte was changed, added or lost"
        self._add(f"{name}/{layout.METADATA}", f"{problem}; the array's values were not checked")
        return False

    def _column(self, name: str, checksums: dict[str, str]) -> None:
        try:
            values = read_array(self._objects, f"{self._path}/{name}")
        except CorruptFeaturesError as error:
            self._add(name, str(error.__cause__))
            return
        # For an unfinished key, or one whose metadata is damaged, there is no checksum of ``failed``.
        if checksums.get(name, found := layout.values_checksum(values)) != found:
            self._add(name, "values differ from their checksum")

    def _shards(self, content: dict[str, Any], group: dict[str, Any] | None, *, read: bool) -> None:
        committed = set(layout.committed_shards(self._objects.records(f"{self._path}/{layout.COMMITS}")))
        records = {}
        for shard in range(layout.num_shards(content["num_rows"], content["shard_rows"])):
            start = shard * content["shard_rows"]
            rows = range(start, min(start + content["shard_rows"], content["num_rows"]))
            if not self._complete and shard not in committed:
                continue
            record = self._document(layout.commit_object(shard), COMMIT, rows)
            if record is not None:
                records[shard] = record
                self._shard(shard, rows, record, FeatureKey(**content["key"]).digest, read=read)
        whole = len(records) == layout.num_shards(content["num_rows"], content["shard_rows"])
        if group is not None and whole and layout.shards_checksum(records) != group["checksums"][layout.FEATURES]:
            self._add(layout.COMMITS, "the commit records are not those this key was completed with")

    def _shard(self, shard: int, rows: range, record: dict[str, Any], digest: str, *, read: bool) -> None:
        if (record["key"], record["rows"]) != (digest, [rows.start, rows.stop]):
            self._add(layout.commit_object(shard), f"is of rows {record['rows']} of {record['key']}", rows)
            return
        if not read:
            return
        name = layout.shard_object(shard)
        if self._objects.lost([f"{self._path}/{name}"]):
            self._add(name, "is missing or empty", rows)
            return
        try:
            values_RD = read_array(self._objects, f"{self._path}/{layout.FEATURES}", slice(rows.start, rows.stop))
        except CorruptFeaturesError as error:
            self._add(name, str(error.__cause__), rows)
            return
        if layout.values_checksum(values_RD) != record["features"]:
            self._add(name, "features differ from their checksum in the commit record", rows)


def _is_as_written(document: bytes, checksum: str) -> bool:
    """Return whether an array's metadata is as written, or that with attributes which somebody gave it since."""
    if layout.bytes_checksum(document) == checksum:
        return True
    try:
        metadata = json.loads(document)
        given = bool(metadata["attributes"])
        as_zarr_writes = json.dumps(without_attributes(metadata), indent=2).encode()
    except (ValueError, KeyError, TypeError):
        return False
    return given and layout.bytes_checksum(as_zarr_writes) == checksum


def _shared(plan: dict[str, Any]) -> list[str]:
    """Return the fields that a group repeats unchanged from its plan; only the checksums are extended."""
    return [name for name in plan if name != "checksums"]
