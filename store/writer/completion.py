"""Complete a set: make its columns of all commit records, then the group that makes it visible."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import DecodeError
from penultimate.store.format import layout
from penultimate.store.format.contents import is_unknown, no_contents
from penultimate.store.format.documents import FEATURE_SET
from penultimate.store.format.layout import Strings
from penultimate.store.key import FeatureKey
from penultimate.store.objects.objects import Objects
from penultimate.store.plan import Plan
from penultimate.store.provenance import utc_now
from penultimate.store.rows.record import CommitRecord
from penultimate.store.rows.rows_folder import RowsFolder
from penultimate.store.rows.source import RowSource
from penultimate.store.writer.encoded_columns import EncodedColumns

# Shapes: M samples of the ImageSet.


class Completed(NamedTuple):
    """A set that is complete now."""

    key: FeatureKey

    num_embedded: int
    """Number of rows that the extraction embedded."""


class SetDraft:
    """What of a set can be computed before its last shard is on the disk: columns of its plan, and its key."""

    def __init__(self, plan: Plan, columns: EncodedColumns, contents_M3: NDArray[np.uint64]) -> None:
        """Compute it, given the contents of all samples as far as they are known; the others leave the key open."""
        self.columns = columns
        self._plan, self._contents_M3 = plan, contents_M3
        self._key = None if is_unknown(contents_M3).any() else plan.key(contents_M3)

    def key(self, contents_M3: NDArray[np.uint64]) -> FeatureKey:
        """Return the key of the set, given the contents of all samples by its commit records."""
        if self._key is not None and np.array_equal(contents_M3, self._contents_M3):
            return self._key
        return self._plan.key(contents_M3)


def complete(
    objects: Objects,
    plan: Plan,
    folder: RowsFolder,
    provenance: Mapping[str, Any],
    draft: SetDraft | None,
    records: Sequence[CommitRecord] | None,
) -> Completed | None:
    """Make the set of an extraction visible if all its blocks are committed; else do nothing and return None.

    A set that is there already stays as it is, unless the plan was to try its failed samples again. Raises DecodeError
    if every sample failed. The caller holds the claim on the whole folder; ``provenance`` is JSON-able, ``draft`` is of
    this plan and ``records`` are those of the folder, each None where the caller does not have it.
    """
    records = folder.records() if records is None else records
    if sum(len(record.samples) for record in records) < plan.num_samples:
        return None
    outcome = _Outcome(objects, plan, folder, records)
    draft = draft or SetDraft(plan, EncodedColumns.of(plan.columns), outcome.contents_M3)
    key = draft.key(outcome.contents_M3)
    completed = Completed(key, outcome.num_embedded)
    if objects.exists(f"{key.path}/{layout.METADATA}") and not plan.retry_failed:
        return completed
    outcome.refuse_if_all_failed()
    objects.delete(f"{key.path}/{layout.METADATA}")
    _write_set(objects, key, outcome, provenance, draft)
    if outcome.num_embedded:
        folder.close(key.path)
    return completed


class _Outcome:
    """What became of every sample, by all records of an extraction together."""

    def __init__(self, objects: Objects, plan: Plan, folder: RowsFolder, records: Sequence[CommitRecord]) -> None:
        self.plan = plan
        self._records = records
        self.contents_M3 = no_contents(plan.num_samples)
        self.row_M = np.full(plan.num_samples, -1, np.int64)
        self.failed_M: Strings = layout.variable_width([""] * plan.num_samples)
        own = [folder.path] if any(record.num_rows for record in records) else []
        paths = dict.fromkeys([*own, *(path for record in records for path in record.sources)])
        self.sources = {path: RowSource.at(objects, path) for path in paths}
        first_rows = np.cumsum([0, *(source.num_rows for source in self.sources.values())])
        first_of = dict(zip(self.sources, first_rows.tolist(), strict=False))
        for record in records:
            within = slice(record.samples.start, record.samples.stop)
            self.contents_M3[within] = record.contents_R3
            shifts = np.array(
                [first_of.get(path, 0) for path in (folder.path, *record.sources)] + [0]
            )  # [-1]: no source
            self.row_M[within] = record.row_R + shifts[record.source_R]
            for sample, reason in record.failed.items():
                self.failed_M[sample] = reason

    @property
    def num_failed(self) -> int:
        """Return the number of samples without features."""
        return int((self.row_M < 0).sum())

    @property
    def num_embedded(self) -> int:
        """Return the number of rows that this extraction embedded; all others were in the store."""
        return sum(record.num_rows for record in self._records)

    def refuse_if_all_failed(self) -> None:
        """Raise DecodeError, with the first sample's reason, if no sample has features."""
        if self.num_failed == self.plan.num_samples:
            raise DecodeError(
                f"none of the {self.plan.num_samples} images of {self.plan.dataset} could be decoded; the first, "
                f"{self.plan.ids_M[0]}: {self.failed_M[0]}"
            )

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return by name the columns that the plan does not hold."""
        return {layout.FAILED: self.failed_M, layout.CONTENT: self.contents_M3, layout.ROW: self.row_M}

    def content(self, key: FeatureKey) -> dict[str, Any]:
        """Return what the attributes of the set's group say of it, but for checksums and provenance."""
        return {
            "format": layout.FORMAT_VERSION,
            "key": asdict(key),
            "listing": self.plan.listing,
            "num_rows": self.plan.num_samples,
            "feature_dim": self.plan.feature_dim,
            "class_names": list(self.plan.class_names),
            "metric": self.plan.metric,
            "sources": [source.about() for source in self.sources.values()],
            "num_embedded": self.num_embedded,
            "num_reused": self.plan.num_samples - self.num_failed - self.num_embedded,
            "num_failed": self.num_failed,
            "num_not_finite": sum(record.num_not_finite for record in self._records),
            "shard_seconds": sum(record.seconds for record in self._records),
        }


def _write_set(
    objects: Objects, key: FeatureKey, outcome: _Outcome, provenance: Mapping[str, Any], draft: SetDraft
) -> None:
    """Write the columns, then the group's document."""
    path = key.path  # computes a digest each time, so once for all objects
    columns, checksums = draft.columns.and_those_of(EncodedColumns.of(outcome.columns()))
    objects.put_many(
        {f"{path}/{name}/{part}": content for name, parts in columns.items() for part, content in parts.items()}
    )
    objects.delete_leftovers(path)
    documents = {name: columns[name][layout.METADATA] for name in layout.COLUMNS}
    content = outcome.content(key) | {
        "checksums": checksums,
        "array_metadata": {name: layout.bytes_checksum(document) for name, document in documents.items()},
        "created": utc_now(),
        "provenance": dict(provenance),
    }
    arrays = {name: json.loads(document) for name, document in documents.items()}
    objects.put(f"{path}/{layout.METADATA}", FEATURE_SET.document(content, arrays=arrays))
