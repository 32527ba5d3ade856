"""Catalog: which sets and which rows lie where in a store, and what their documents say."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.format import layout
from penultimate.store.format.documents import ATTRIBUTE, FEATURE_SET
from penultimate.store.format.reading import array_documents
from penultimate.store.key import FeatureKey
from penultimate.store.objects.objects import Objects
from penultimate.store.rows.rows_folder import RowsFolder


class Catalog:
    """The sets and rows of the store in ``objects``; it remembers nothing, since other writers come and go."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def set_paths(self) -> Iterator[str]:
        """Yield the path of every set, complete or not, passing by what others put beside them."""
        return (path for path in self._paths() if layout.is_digest(path.rpartition("/")[2]))

    def complete_paths(self) -> Iterator[str]:
        """Yield the path of every complete set."""
        return (path for path in self.set_paths() if self.is_complete(path))

    def remains(self) -> Iterator[str]:
        """Yield the path of every set that has columns, but not what makes it a set: its removal was interrupted."""
        incomplete = (path for path in self.set_paths() if not self.is_complete(path))
        return (path for path in incomplete if not self._objects.exists(f"{path}/{layout.PLAN_OBJECT}"))

    def rows_folders(self) -> Iterator[RowsFolder]:
        """Yield every folder of rows, closed or not."""
        found = (path for path in self._paths() if layout.rows_folder_parts(path.rpartition("/")[2]))
        return (RowsFolder(self._objects, path) for path in found)

    def closed_folders(self) -> Iterator[RowsFolder]:
        """Yield every folder whose rows are there only for sets that refer to them."""
        yield from (folder for folder in self.rows_folders() if folder.is_closed)
        removed = (RowsFolder(self._objects, path) for path in self.set_paths() if not self.is_complete(path))
        yield from (folder for folder in removed if folder.is_closed)  # of format 1

    def is_complete(self, path: str) -> bool:
        """Return whether the set at ``path`` is complete."""
        return self._objects.exists(f"{path}/{layout.METADATA}")

    def set_content(self, path: str) -> dict[str, Any]:
        """Return what a complete set's group says; raises CorruptFeaturesError if it is damaged or was moved."""
        document = self._objects.get(f"{path}/{layout.METADATA}") or b""
        where = self._objects.where(f"{path}/{layout.METADATA}")
        content = FEATURE_SET.read(document, where, arrays=partial(array_documents, self._objects, path))
        self._check_place(FeatureKey(**content["key"]), path)
        return content

    def begun_format_1(self, path: str) -> dict[str, Any] | None:
        """Return the plan of an incomplete key of format 1, or None where there is none; raises CorruptFeaturesError.

        Of one that was removed, or upgraded, only the rows are left, for sets that refer to them.
        """
        folder = RowsFolder(self._objects, path)
        return None if folder.is_closed else folder.plan_content()

    def key_at(self, path: str) -> FeatureKey:
        """Return the key of a complete set, also of one whose group is damaged elsewhere: its path proves it.

        Raises CorruptFeaturesError if that does not tell the key.
        """
        try:
            return FeatureKey(**self.set_content(path)["key"])
        except CorruptFeaturesError:
            if (key := self._key_in(path)) is not None and key.path == path:
                return key
            if (begun := self.begun_format_1(path)) is None:
                raise
            self._check_place(FeatureKey(**begun["key"]), path)
            return FeatureKey(**begun["key"])

    def _key_in(self, path: str) -> FeatureKey | None:
        """Return the key in a set's damaged group, None if there is none any more."""
        try:
            document = json.loads(self._objects.get(f"{path}/{layout.METADATA}") or b"")
            return FeatureKey(**document["attributes"][ATTRIBUTE]["key"])
        except (ValueError, KeyError, TypeError):
            return None

    def _check_place(self, key: FeatureKey, path: str) -> None:
        if key.path != path:
            raise CorruptFeaturesError(
                f"{self._objects.where(path)} holds the features of {key.path}; move it back there"
            )

    def _paths(self) -> Iterator[str]:
        for dataset in self._objects.folders(""):
            for backbone in self._objects.folders(dataset):
                yield from (f"{dataset}/{backbone}/{name}" for name in self._objects.folders(f"{dataset}/{backbone}"))
