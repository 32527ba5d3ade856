"""Verify a key of format 1, whose columns and features lie in one group, or what is left of one."""

from typing import Any

from penultimate.store.format import layout
from penultimate.store.format.documents import COMMIT, FEATURE_SET, PLAN
from penultimate.store.key import FeatureKey
from penultimate.store.objects.objects import Objects
from penultimate.store.upkeep.inspection import Finding, Inspection


def verify_format_1(objects: Objects, path: str) -> list[Finding]:
    """Return the findings about the key at ``path``; of an unfinished key, only committed shards are checked."""
    inspection = _KeyInspection(objects, path, complete=objects.exists(f"{path}/{layout.METADATA}"))
    inspection.run(with_columns=True)
    return inspection.findings


def verify_format_1_rows(objects: Objects, path: str) -> list[Finding]:
    """Return the findings about the features alone, of a key that was upgraded, or removed while others share rows."""
    inspection = _KeyInspection(objects, path, complete=False)
    inspection.run(with_columns=False)
    return inspection.findings


class _KeyInspection(Inspection):
    def __init__(self, objects: Objects, path: str, *, complete: bool) -> None:
        super().__init__(objects, path)
        self._complete = complete

    def run(self, *, with_columns: bool) -> None:
        if not self._complete and not self.objects.exists(f"{self.path}/{layout.PLAN_OBJECT}"):
            return  # ended before anything was committed
        plan = self.document(layout.PLAN_OBJECT, PLAN)
        group = self.document(layout.METADATA, FEATURE_SET) if self._complete else None
        content = group or plan
        if content is None:
            self.add(layout.FEATURES, "nothing says any more what should be here; nothing else was checked")
            return
        if FeatureKey(**content["key"]).path != self.path:
            self.add(layout.METADATA, f"belongs to {FeatureKey(**content['key']).path}")
        if group is not None and plan is not None and any(group[name] != plan[name] for name in _shared(plan)):
            self.add(layout.PLAN_OBJECT, "is another plan than the one this key was written by")
        metadata = group["array_metadata"] if group is not None else {}
        columns = [layout.IDS, layout.LABELS, layout.SPLIT, *([layout.FAILED] if self._complete else [])]
        for name in columns if with_columns else []:
            if self.metadata_holds(name, metadata.get(name)):
                self.column(name, content["checksums"])
        self._shards(content, group, read=self.metadata_holds(layout.FEATURES, metadata.get(layout.FEATURES)))

    def _shards(self, content: dict[str, Any], group: dict[str, Any] | None, *, read: bool) -> None:
        committed = set(layout.committed_shards(self.objects.records(f"{self.path}/{layout.COMMITS}")))
        digest = FeatureKey(**content["key"]).digest
        records = {}
        for shard in range(layout.num_shards(content["num_rows"], content["shard_rows"])):
            start = shard * content["shard_rows"]
            rows = range(start, min(start + content["shard_rows"], content["num_rows"]))
            if not self._complete and shard not in committed:
                continue
            record = self.document(layout.commit_object(shard), COMMIT, rows)
            if record is None:
                continue
            records[shard] = record
            if (record["key"], record["rows"]) != (digest, [rows.start, rows.stop]):
                self.add(layout.commit_object(shard), f"is of rows {record['rows']} of {record['key']}", rows)
            elif read:
                self.shard(shard, rows, record["features"])
        whole = len(records) == layout.num_shards(content["num_rows"], content["shard_rows"])
        if group is not None and whole and layout.shards_checksum(records) != group["checksums"][layout.FEATURES]:
            self.add(layout.COMMITS, "the commit records are not those this key was completed with")


def _shared(plan: dict[str, Any]) -> list[str]:
    """Return the fields that a group repeats unchanged from its plan; only the checksums are extended."""
    return [name for name in plan if name != "checksums"]
