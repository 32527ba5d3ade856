"""Inspection: a single pass over one folder of a store, which collects findings; what the kinds of folders share."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.format import layout
from penultimate.store.format.documents import Kind, without_attributes
from penultimate.store.format.reading import array_documents, read_array
from penultimate.store.objects.objects import Objects


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One difference from what was written."""

    path: str
    """Path of the set or of the rows, below the store."""

    object: str
    """Name, below the path, of the object or of the array as a whole."""

    rows: range | None
    """Rows on disk that are affected; None if it is not just some of them."""

    problem: str


class Inspection:
    """Collects the findings about the folder at ``path``."""

    def __init__(self, objects: Objects, path: str) -> None:
        self.objects = objects
        self.path = path
        self.findings: list[Finding] = []

    def add(self, name: str, problem: str, rows: range | None = None) -> None:
        """Add a finding about the object or array ``name``."""
        self.findings.append(Finding(path=self.path, object=name, rows=rows, problem=problem))

    def document(self, name: str, kind: Kind, rows: range | None = None) -> dict[str, Any] | None:
        """Return the content of a document; add a finding and return None if it is missing or was changed."""
        if (document := self.objects.get(f"{self.path}/{name}")) is None:
            self.add(name, "is missing", rows)
            return None
        try:
            arrays = partial(array_documents, self.objects, self.path) if kind.in_group else None
            return kind.content(document, arrays=arrays)
        except ValueError as error:
            self.add(name, str(error), rows)
            return None

    def metadata_holds(self, name: str, checksum: str | None) -> bool:
        """Return True if an array's metadata is as written; otherwise its values cannot be checked.

        Without a checksum, of what is not complete, it only must be there.
        """
        document = self.objects.get(f"{self.path}/{name}/{layout.METADATA}")
        if document is not None and (checksum is None or _is_as_written(document, checksum)):
            return True
        problem = "is missing" if document is None else "a byte was changed, added or lost"
        self.add(f"{name}/{layout.METADATA}", f"{problem}; the array's values were not checked")
        return False

    def column(self, name: str, checksums: Mapping[str, str]) -> Any:
        """Return the values of a column, None if they cannot be read; add a finding if they differ from a checksum."""
        try:
            values = read_array(self.objects, f"{self.path}/{name}")
        except CorruptFeaturesError as error:
            self.add(name, str(error.__cause__))
            return None
        # For an unfinished key, or one whose metadata is damaged, there is no checksum of ``failed``.
        if checksums.get(name, found := layout.values_checksum(values)) != found:
            self.add(name, "values differ from their checksum")
        return values

    def shard(self, shard: int, rows: range, checksum: str) -> None:
        """Read the rows of a shard and add a finding if they are not those of its commit record."""
        name = layout.shard_object(shard)
        if self.objects.lost([f"{self.path}/{name}"]):
            self.add(name, "is missing or empty", rows)
            return
        try:
            values_RD = read_array(self.objects, f"{self.path}/{layout.FEATURES}", slice(rows.start, rows.stop))
        except CorruptFeaturesError as error:
            self.add(name, str(error.__cause__), rows)
            return
        if layout.values_checksum(values_RD) != checksum:
            self.add(name, "features differ from their checksum in the commit record", rows)


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
