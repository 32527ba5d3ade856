"""FeatureStore: many FeatureSets in one folder, found by their FeatureKey."""

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
from penultimate.store.feature_set import Columns, FeatureSet
from penultimate.store.feature_writer import FeatureWriter
from penultimate.store.format import layout
from penultimate.store.format.arrays import default_pipeline, open_features
from penultimate.store.format.documents import FEATURE_SET, PLAN, STORE
from penultimate.store.format.layout import Strings
from penultimate.store.key import FeatureKey
from penultimate.store.objects.claim import EVERYTHING
from penultimate.store.objects.objects import Objects, open_objects
from penultimate.store.plan import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Incomplete:
    """A key whose extraction was begun and not ended."""

    key: FeatureKey
    num_rows: int

    done_rows: int
    """Rows in shards that are committed: what is not computed again."""


class FeatureStore:
    """Reads the store at ``place``, a folder or an ``s3://``, ``gs://`` or ``az://`` address.

    ``FeatureStore.create`` makes one where there is none. Raises NotAStoreError where ``place`` holds no store, or one
    of a newer format, UnavailableError for an address without the extra ``cloud``.
    """

    def __init__(self, place: str | Path) -> None:
        self.objects = open_objects(place)
        _check_is_store(self.objects)

    @classmethod
    def create(cls, place: str | Path) -> Self:
        """Open the store at ``place``, or make one where nothing lies or an empty folder does.

        A folder's parent, or the bucket, must exist (InputError); what holds something else raises NotAStoreError.
        """
        objects = open_objects(place)
        if objects.is_vacant():
            objects.prepare()
            objects.put(layout.METADATA, STORE.document({"format": layout.FORMAT_VERSION}))
        return cls(place)

    @property
    def address(self) -> str:
        """What opens this store again, also in another process."""
        return self.objects.address

    @property
    def path(self) -> Path:
        """The folder of a local store; InputError for one in a bucket."""
        return self.objects.folder

    def keys(self) -> list[FeatureKey]:
        """Complete keys, in the order of their paths."""
        return [self._key_at(path) for path in self.paths() if self._has(f"{path}/{layout.METADATA}")]

    def incomplete(self) -> list[Incomplete]:
        """Keys whose extraction was begun and not ended."""
        begun = (path for path in self.paths() if not self._has(f"{path}/{layout.METADATA}"))
        return [found for path in begun if (found := self._begun(path)) is not None]

    def paths(self) -> Iterator[str]:
        """Path below the store of every key, complete or not; groups and arrays of others beside them are passed by."""
        for dataset in self._folders(""):
            for backbone in self._folders(dataset):
                yield from (path for path in self._folders(backbone) if layout.is_digest(path.rpartition("/")[2]))

    def find(self, name: str) -> FeatureKey:
        """The key, complete or not, whose digest or path begins with ``name``; UnknownNameError if not exactly one."""
        keys = [*self.keys(), *(found.key for found in self.incomplete())]
        found = [key for key in keys if key.digest.startswith(name) or key.path.startswith(name)]
        if len(found) != 1 or not name:
            raise UnknownNameError("key", name, [text for key in found or keys for text in (key.path, key.digest)])
        return found[0]

    def contains(self, key: FeatureKey) -> bool:
        """Whether ``key`` is complete."""
        return self._has(f"{key.path}/{layout.METADATA}")

    def info(self, key: FeatureKey) -> dict[str, Any]:
        """JSON-able: all that is written down about a complete key (counts, checksums, provenance)."""
        self._check_complete(key)
        content = self._completed(key.path)
        if (there := FeatureKey(**content["key"])) != key:
            raise CorruptFeaturesError(
                f"{self.objects.where(key.path)} holds the features of {there.path}; move it back there"
            )
        return content

    def read(self, key: FeatureKey) -> FeatureSet:
        """The features of a complete key.

        Raises IncompleteFeaturesError where shards are missing, UnknownNameError where nothing was begun.
        """
        content = self.info(key)
        return FeatureSet(
            key=key,
            provenance=content["provenance"],
            class_names=tuple(content["class_names"]),
            metric=content["metric"],
            array=_StoredRows(self.objects, key, content["shard_rows"]),
            read_columns=partial(_read_columns, self.objects, key, content["checksums"]),
            shard_rows=content["shard_rows"],
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
        """Begin or resume writing ``key``; of a complete key, a writer that misses nothing.

        ``shard_range`` leaves other shards to other writers. Raises StoreBusyError where another has any of these,
        InputError where the key was begun with other ids, labels, classes, dimension or shard size.
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
        """As ``writer``, of a plan that was made before, whose arrays must be what they were then."""
        return FeatureWriter(self.objects, plan, provenance=provenance, shard_range=shard_range)

    def delete(self, key: FeatureKey) -> None:
        """Remove a key, complete or not; StoreBusyError while it is being written."""
        if not self.objects.names(key.path):
            raise self._unknown(key)
        with self.objects.claim(f"{key.path}/{layout.LOCK}", EVERYTHING):
            # In this order, so that a kill in between leaves a key to resume, not one that looks complete.
            self.objects.delete(f"{key.path}/{layout.METADATA}")
            self.objects.delete_folder(f"{key.path}/{layout.COMMITS}")
            self.objects.delete_folder(key.path)

    def _folders(self, parent: str) -> list[str]:
        """Paths of the folders directly below ``parent``."""
        return [f"{parent}/{name}" if parent else name for name in self.objects.folders(parent)]

    def _has(self, name: str) -> bool:
        return self.objects.exists(name)

    def _key_at(self, path: str) -> FeatureKey:
        """Key of a complete group; the plan has it too, so that a damaged group can still be named and removed."""
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
        return FEATURE_SET.read(document, where, arrays=partial(layout.array_documents, self.objects, path))

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


class _StoredRows:
    """The ``features`` array of a key; a wrong checksum or a lost shard names the rows."""

    def __init__(self, objects: Objects, key: FeatureKey, shard_rows: int) -> None:
        self._objects = objects
        self._key = key
        self._shard_rows = shard_rows
        # From an object store zarrs would read by itself, without our retries.
        self._array = open_features(objects, key.path, pipeline=default_pipeline() if objects.is_local else "zarr")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        self._refuse_if_lost(range(start // self._shard_rows, layout.num_shards(stop, self._shard_rows)))
        with self._objects.reading(f"{self._key.path}/{layout.FEATURES}", slice(start, stop)):
            return np.asarray(self._array[start:stop])

    def _refuse_if_lost(self, shards: range) -> None:
        """Zarr would fill the rows of a shard that is not there, or is empty, with NaN."""
        shard_of = {f"{self._key.path}/{layout.shard_object(shard)}": shard for shard in shards}
        for name in self._objects.lost(list(shard_of)):
            first = shard_of[name] * self._shard_rows
            rows = slice(first, min(first + self._shard_rows, self.shape[0]))
            with self._objects.reading(f"{self._key.path}/{layout.FEATURES}", rows):
                raise ValueError(f"{layout.shard_object(shard_of[name])} is missing or empty")


def _read_columns(objects: Objects, key: FeatureKey, checksums: Mapping[str, str]) -> Columns:
    """Columns, checked as a whole: Zarr would fill a chunk that is not there."""
    columns = {}
    for name in layout.COLUMNS:
        columns[name] = objects.read_array(f"{key.path}/{name}")
        with objects.reading(f"{key.path}/{name}"):
            if layout.values_checksum(columns[name]) != checksums[name]:
                raise ValueError("values differ from their checksum")
    return Columns(
        labels_M=columns[layout.LABELS],
        ids_M=columns[layout.IDS],
        split_M=layout.fixed_width(columns[layout.SPLIT]),
        failed_M=columns[layout.FAILED],
    )


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
