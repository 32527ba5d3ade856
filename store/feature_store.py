"""FeatureStore: many FeatureSets at one location, found by their FeatureKey."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import (
    CorruptFeaturesError,
    IncompleteFeaturesError,
    NotAStoreError,
    UnknownNameError,
)
from penultimate.store.feature_set import FeatureSet
from penultimate.store.format import layout
from penultimate.store.format.documents import FEATURE_SET, PLAN, STORE
from penultimate.store.format.layout import Strings
from penultimate.store.format.reading import array_documents
from penultimate.store.key import FeatureKey
from penultimate.store.objects.claim import EVERYTHING
from penultimate.store.objects.objects import Objects
from penultimate.store.objects.open import open_objects
from penultimate.store.plan import Plan
from penultimate.store.stored_rows import open_rows, read_columns
from penultimate.store.writer.feature_writer import FeatureWriter


@dataclass(frozen=True, kw_only=True, slots=True)
class Incomplete:
    """A key whose extraction is not complete."""

    key: FeatureKey
    num_rows: int

    done_rows: int
    """Number of rows in committed shards, which are not computed again."""


class FeatureStore:
    """The store at ``location``, a folder or an ``s3://``, ``gs://`` or ``az://`` address.

    ``FeatureStore.create`` makes a new one. Raises NotAStoreError where ``location`` holds no store, or one of a newer
    format, UnavailableError for an address without the extra ``cloud``.
    """

    def __init__(self, location: str | Path) -> None:
        self.objects = open_objects(location)
        _check_is_store(self.objects)

    @classmethod
    def create(cls, location: str | Path) -> Self:
        """Open the store at ``location``, or make one if nothing or an empty folder is there.

        Raises InputError if the folder's parent, or the bucket, does not exist, and NotAStoreError if the location
        holds something else.
        """
        objects = open_objects(location)
        if objects.is_vacant():
            objects.prepare()
            objects.put(layout.METADATA, STORE.document({"format": layout.FORMAT_VERSION}))
        return cls(location)

    @property
    def address(self) -> str:
        """Return the text with which ``FeatureStore`` opens this store again, also in another process."""
        return self.objects.address

    @property
    def path(self) -> Path:
        """Return the folder of a local store; raises InputError for one in a bucket."""
        return self.objects.folder

    def keys(self) -> list[FeatureKey]:
        """Return the complete keys, in the order of their paths."""
        return [self._key_at(path) for path in self.paths() if self._has(f"{path}/{layout.METADATA}")]

    def incomplete(self) -> list[Incomplete]:
        """Return the keys whose extraction is not complete."""
        begun = (path for path in self.paths() if not self._has(f"{path}/{layout.METADATA}"))
        return [found for path in begun if (found := self._begun(path)) is not None]

    def paths(self) -> Iterator[str]:
        """Yield the path below the store of every key, complete or not, passing by what others put beside them."""
        for dataset in self._folders(""):
            for backbone in self._folders(dataset):
                yield from (path for path in self._folders(backbone) if layout.is_digest(path.rpartition("/")[2]))

    def find(self, name: str) -> FeatureKey:
        """Return the one key whose digest or path begins with ``name``; raises UnknownNameError if there is not one."""
        keys = [*self.keys(), *(found.key for found in self.incomplete())]
        found = [key for key in keys if key.digest.startswith(name) or key.path.startswith(name)]
        if len(found) != 1 or not name:
            raise UnknownNameError("key", name, [text for key in found or keys for text in (key.path, key.digest)])
        return found[0]

    def contains(self, key: FeatureKey) -> bool:
        """Return whether ``key`` is complete."""
        return self._has(f"{key.path}/{layout.METADATA}")

    def info(self, key: FeatureKey) -> dict[str, Any]:
        """Return the JSON-able record of a complete key: counts, checksums and provenance."""
        self._check_complete(key)
        content = self._completed(key.path)
        if (there := FeatureKey(**content["key"])) != key:
            raise CorruptFeaturesError(
                f"{self.objects.where(key.path)} holds the features of {there.path}; move it back there"
            )
        return content

    def read(self, key: FeatureKey) -> FeatureSet:
        """Return the features of a complete key, which are read lazily.

        Raises IncompleteFeaturesError if shards are missing, UnknownNameError if the store does not know the key.
        """
        content = self.info(key)
        return FeatureSet(
            key=key,
            provenance=content["provenance"],
            class_names=tuple(content["class_names"]),
            metric=content["metric"],
            array=open_rows(self.objects, key, content["shard_rows"]),
            read_columns=partial(read_columns, self.objects, key, content["checksums"]),
            shard_rows=content["shard_rows"],
            num_failed=content["num_failed"],
        )

    def writer(
        self,
        key: FeatureKey,
        *,
        ids: Strings | Sequence[str],
        labels: NDArray[np.int64] | NDArray[np.uint8],
        split: NDArray[np.str_] | Sequence[str],
        class_names: Sequence[str],
        metric: str,
        feature_dim: int,
        provenance: Mapping[str, Any],
        shard_range: range | None = None,
        shard_rows: int = layout.SHARD_ROWS,
    ) -> FeatureWriter:
        """Begin or resume writing ``key``; if it is complete, the writer has no missing rows.

        ``shard_range`` leaves other shards to other writers. Raises StoreBusyError if another writer has any of these,
        InputError if the key was begun with other ids, labels, classes, dimension or shard size.
        """
        plan = Plan(
            key=key,
            ids_M=layout.variable_width(ids),
            labels_M=labels,
            split_M=layout.variable_width(split),
            class_names=tuple(class_names),
            metric=metric,
            feature_dim=feature_dim,
            shard_rows=shard_rows,
        )
        return self.writer_of(plan, provenance=provenance, shard_range=shard_range)

    def writer_of(
        self, plan: Plan, *, provenance: Mapping[str, Any], shard_range: range | None = None
    ) -> FeatureWriter:
        """Return a writer as ``writer`` does, for a plan made before, whose arrays must not have changed since."""
        return FeatureWriter(self.objects, plan, provenance=provenance, shard_range=shard_range)

    def delete(self, key: FeatureKey) -> None:
        """Remove a key, complete or not; raises StoreBusyError while it is being written."""
        if not self.objects.names(key.path):
            raise self._unknown(key)
        with self.objects.claim(f"{key.path}/{layout.LOCK}", EVERYTHING):
            # In this order a kill in between leaves a key to resume, not one that looks complete.
            self.objects.delete(f"{key.path}/{layout.METADATA}")
            self.objects.delete_folder(f"{key.path}/{layout.COMMITS}")
            self.objects.delete_folder(key.path)

    def _folders(self, parent: str) -> list[str]:
        """Return the paths of the folders directly below ``parent``."""
        return [f"{parent}/{name}" if parent else name for name in self.objects.folders(parent)]

    def _has(self, name: str) -> bool:
        return self.objects.exists(name)

    def _key_at(self, path: str) -> FeatureKey:
        """Return the key of a complete group, from its plan if the group's metadata is damaged."""
        try:
            key = FeatureKey(**self._completed(path)["key"])
        except CorruptFeaturesError:
            if (begun := self._begun(path)) is None:
                raise
            key = begun.key
        if key.path != path:
            raise CorruptFeaturesError(
                f"{self.objects.where(path)} holds the features of {key.path}; move it back there"
            )
        return key

    def _completed(self, path: str) -> dict[str, Any]:
        document = self.objects.get(f"{path}/{layout.METADATA}")
        assert document is not None, "only asked of complete keys"
        where = self.objects.where(f"{path}/{layout.METADATA}")
        return FEATURE_SET.read(document, where, arrays=partial(array_documents, self.objects, path))

    def _begun(self, path: str) -> Incomplete | None:
        plan_object = f"{path}/{layout.PLAN_OBJECT}"
        if (document := self.objects.get(plan_object)) is None:
            return None
        plan = PLAN.read(document, self.objects.where(plan_object))
        shards = layout.committed_shards(self.objects.records(f"{path}/{layout.COMMITS}"))
        done = sum(min(plan["shard_rows"], plan["num_rows"] - shard * plan["shard_rows"]) for shard in shards)
        return Incomplete(key=FeatureKey(**plan["key"]), num_rows=plan["num_rows"], done_rows=done)

    def _check_complete(self, key: FeatureKey) -> None:
        if self.contains(key):
            return
        if (begun := self._begun(key.path)) is None:
            raise self._unknown(key)
        raise IncompleteFeaturesError(
            f"{key.backbone} on {key.dataset} has {begun.done_rows} of {begun.num_rows} rows at "
            f"{self.objects.where(key.path)}; run `penultimate extract` again to resume"
        )

    def _unknown(self, key: FeatureKey) -> UnknownNameError:
        return UnknownNameError(f"key in {self.objects.where()}", key.path, [known.path for known in self.keys()])


def _check_is_store(objects: Objects) -> None:
    if (document := objects.get(layout.METADATA)) is None and objects.is_vacant():
        raise NotAStoreError(f"there is no feature store at {objects.where()}; `penultimate extract` makes one")
    try:
        version = STORE.content(document or b"")["format"]
    except ValueError as error:
        raise NotAStoreError(f"{objects.where()} is not empty, but no feature store ({error})") from error
    if version > layout.FORMAT_VERSION:
        raise NotAStoreError(
            f"{objects.where()} is of format {version}, this penultimate reads up to {layout.FORMAT_VERSION}; update it"
        )
