"""Verify a set: its columns, and that the rows it refers to are there."""

from collections.abc import Mapping
from typing import Any

from penultimate.store.format import layout
from penultimate.store.format.contents import set_digest
from penultimate.store.format.documents import FEATURE_SET
from penultimate.store.key import FeatureKey
from penultimate.store.objects.objects import Objects
from penultimate.store.rows.references import references
from penultimate.store.rows.rows_folder import RowsFolder
from penultimate.store.upkeep.inspection import Finding, Inspection


def verify_set(objects: Objects, path: str) -> list[Finding]:
    """Return the findings about the complete set at ``path``; its rows are verified where they are."""
    inspection = _SetInspection(objects, path)
    inspection.run()
    return inspection.findings


class _SetInspection(Inspection):
    def run(self) -> None:
        if (group := self.document(layout.METADATA, FEATURE_SET)) is None:
            return
        if FeatureKey(**group["key"]).path != self.path:
            self.add(layout.METADATA, f"belongs to {FeatureKey(**group['key']).path}")
        columns = {
            name: self.column(name, group["checksums"])
            for name in layout.COLUMNS
            if self.metadata_holds(name, group["array_metadata"][name])
        }
        if not self.findings:
            self._check_digest(group, columns)
            self._check_rows(group["sources"], columns[layout.ROW])

    def _check_digest(self, group: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
        found = set_digest(
            ids=columns[layout.IDS].tolist(),
            labels_N=columns[layout.LABELS],
            split_N=columns[layout.SPLIT].tolist(),
            class_names=group["class_names"],
            contents_N3=columns[layout.CONTENT],
        )
        if found != group["key"]["images"]:
            self.add(layout.METADATA, f"is of images {group['key']['images']}, and the columns are of {found}")

    def _check_rows(self, sources: list[Mapping[str, Any]], row_M: Any) -> None:
        for found in references(sources, row_M):
            path = found.source["path"]
            if missing := found.shards - RowsFolder(self.objects, path).shards():
                self.add(layout.ROW, f"refers to shards {sorted(missing)[:10]} of {path}, which are not there")
