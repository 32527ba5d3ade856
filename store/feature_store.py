"""FeatureStore: many FeatureSets at one location, found by their FeatureKey."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.store.catalog import Catalog
from penultimate.store.errors import IncompleteFeaturesError, NotAStoreError, UnknownNameError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.format import layout
from penultimate.store.format.contents import is_known
from penultimate.store.format.documents import STORE
from penultimate.store.inventory import Damaged, Incomplete, Inventory, the_one
from penultimate.store.key import Embedding, FeatureKey, folder_of
from penultimate.store.objects.objects import Objects
from penultimate.store.objects.open import open_objects
from penultimate.store.plan import Plan
from penultimate.store.rows.known_rows import ContentsOfIds, KnownRows
from penultimate.store.rows.rows_folder import RowsFolder
from penultimate.store.stored_columns import gathered_rows, read_columns, read_contents
from penultimate.store.upkeep.removal import Removed, remove_rows, remove_set
from penultimate.store.writer.feature_writer import FeatureWriter


class FeatureStore:
    """The store at ``location``, a folder or an ``s3://``, ``gs://`` or ``az://`` address.

    ``FeatureStore.create`` makes a new one. Raises NotAStoreError where ``location`` holds no store, or one of a newer
    format, UnavailableError for an address without the extra ``cloud``.
    """

    def __init__(self, location: str | Path) -> None:
        self.objects = open_objects(location)
        self._format = _format_of(self.objects)

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

    @staticmethod
    def check_location(location: str | Path) -> None:
        """Raise what ``create`` raises for a location that cannot be a store, without making anything there."""
        objects = open_objects(location)
        if objects.is_vacant():
            objects.check_parent()
        else:
            _format_of(objects)

    @property
    def catalog(self) -> Catalog:
        """Return what lies where in this store."""
        return Catalog(self.objects)

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
        return Inventory(self.objects).keys()

    def incomplete(self) -> list[Incomplete]:
        """Return the extractions that are not complete."""
        return Inventory(self.objects).incomplete()

    def find(self, name: str) -> FeatureKey:
        """Return the one key whose digest or path begins with ``name``; raises UnknownNameError if there is not one."""
        return the_one(name, self.keys())

    def find_any(self, name: str) -> FeatureKey | Incomplete | Damaged:
        """Return what ``find`` does, also among what is not complete, or so damaged that nothing else tells of it."""
        return the_one(name, Inventory(self.objects).everything())

    def contains(self, key: FeatureKey) -> bool:
        """Return whether ``key`` is complete."""
        return self.catalog.is_complete(key.path)

    def info(self, key: FeatureKey) -> dict[str, Any]:
        """Return the JSON-able record of a complete key: counts, sources, checksums and provenance."""
        self._check_complete(key)
        return self.catalog.set_content(key.path)

    def read(self, key: FeatureKey) -> FeatureSet:
        """Return the features of a complete key, which are read lazily.

        Raises IncompleteFeaturesError if blocks are missing, UnknownNameError if the store does not know the key.
        """
        content = self.info(key)
        return FeatureSet(
            key=key,
            provenance=content["provenance"],
            class_names=tuple(content["class_names"]),
            metric=content["metric"],
            array=gathered_rows(self.objects, key, content),
            read_columns=partial(read_columns, self.objects, key, content["checksums"]),
            read_contents=partial(read_contents, self.objects, key, content),
            shard_rows=content["sources"][0]["shard_rows"] if content["format"] > 1 else content["shard_rows"],
            num_failed=content["num_failed"],
        )

    def num_known(self, embedding: Embedding, contents_N3: NDArray[np.uint64], *, failures: bool) -> int:
        """Return of how many samples, given their contents, the store has a row of this embedding.

        With ``failures`` those count too that could not be decoded.
        """
        if not is_known(contents_N3).any():
            return 0
        known = KnownRows(self.objects, embedding)
        try:
            known.gather(failures=failures)
            found_N = known.index.find(contents_N3)[1] >= 0
            there = known.index.failed
            failed = sum(tuple(content) in there for content in (contents_N3[~found_N].tolist() if there else []))
            return int(found_N.sum()) + failed
        finally:
            known.release()

    def writer(
        self,
        plan: Plan,
        *,
        provenance: Mapping[str, Any],
        blocks: range | None = None,
        contents_of: ContentsOfIds | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> FeatureWriter:
        """Begin or resume an extraction.

        Parameters
        ----------
        plan
            The samples and what embeds them; its arrays must not change any more.
        provenance
            JSON-able record of how the features are made, kept with the rows and with the set.
        blocks
            Blocks that this writer does; others are left to other writers.
        contents_of
            Function from ids to contents, with which rows of format 1 are found again.
        log
            Called with a line about rows that are damaged.

        Raises
        ------
        StoreBusyError
            If another writer has any of the blocks.
        InputError
            If the extraction was begun with another dimension or shard size.
        """
        if self._format < layout.FORMAT_VERSION:  # from now on an older penultimate would misread it
            self.objects.put(layout.METADATA, STORE.document({"format": layout.FORMAT_VERSION}))
            self._format = layout.FORMAT_VERSION
        return FeatureWriter(self.objects, plan, provenance=provenance, blocks=blocks, contents_of=contents_of, log=log)

    def delete(self, what: FeatureKey | Incomplete | Damaged) -> Removed:
        """Remove a key, an incomplete extraction or something damaged, and the rows that no other key needs.

        Raises UnknownNameError if it is not there, StoreBusyError while an incomplete one is being written.
        """
        if isinstance(what, FeatureKey) and not self.contains(what):
            raise self._unknown(what)
        if layout.is_digest(what.path.rpartition("/")[2]) and not isinstance(what, Incomplete):
            return remove_set(self.objects, what.path)
        return remove_rows(self.objects, RowsFolder(self.objects, what.path))

    def _check_complete(self, key: FeatureKey) -> None:
        if self.contains(key):
            return
        folder = folder_of(key.dataset, key.backbone)
        for found in self.incomplete():
            if found.path.rpartition("/")[0] == folder and found.embedding.digest == key.embedding.digest:
                raise IncompleteFeaturesError(
                    f"{key.backbone} on {key.dataset} has {found.done_rows} of {found.num_rows} rows at "
                    f"{self.objects.where(found.path)}; run `penultimate extract` again to resume"
                )
        raise self._unknown(key)

    def _unknown(self, key: FeatureKey) -> UnknownNameError:
        return UnknownNameError(f"key in {self.objects.where()}", key.path, [known.path for known in self.keys()])


def _format_of(objects: Objects) -> int:
    """Return the format of the store in ``objects``; raises NotAStoreError if there is none, or a newer one."""
    if (document := objects.get(layout.METADATA)) is None:
        if objects.is_vacant():
            raise NotAStoreError(f"there is no feature store at {objects.where()}; `penultimate extract` makes one")
        # Another process may have made the store since; this is the first object of one.
        if (document := objects.get(layout.METADATA)) is None:
            raise NotAStoreError(_occupied(objects))
    try:
        version: int = STORE.content(document)["format"]
    except ValueError as error:
        if STORE.name.encode() not in document:  # a group of somebody else's
            raise NotAStoreError(_occupied(objects)) from error
        raise NotAStoreError(f"{objects.where(layout.METADATA)} is {error}; bring back a copy of it") from error
    if version > layout.FORMAT_VERSION:
        raise NotAStoreError(
            f"{objects.where()} is of format {version}, this penultimate reads up to {layout.FORMAT_VERSION}; update it"
        )
    return version


def _occupied(objects: Objects) -> str:
    return f"{objects.where()} is not empty and no feature store; choose a new or empty folder"
