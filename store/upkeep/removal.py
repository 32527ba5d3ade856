"""Remove sets and rows: what nothing else refers to is freed, shard by shard."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.catalog import Catalog
from penultimate.store.errors import CorruptFeaturesError, StoreBusyError
from penultimate.store.format import layout
from penultimate.store.format.reading import read_array
from penultimate.store.objects.objects import Objects
from penultimate.store.rows.references import references
from penultimate.store.rows.rows_folder import RowsFolder
from penultimate.store.rows.source import RowSource


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What a removal freed."""

    freed_bytes: int
    """Size of all that was removed."""

    shared_bytes: int
    """Size of the rows of what was removed that stay, because other sets or extractions refer to their shards."""

    kept: tuple[str, ...] = ()
    """Why rows that might have been freed were left alone; a later removal frees them."""


def remove_set(objects: Objects, path: str) -> Removed:
    """Remove the set at ``path``, whole or damaged, and all rows in the store that nothing refers to any more."""
    sources = _source_paths(objects, path)
    freed = sum(map(objects.size, (f"{path}/{name}" for name in (*layout.COLUMNS, layout.METADATA))))
    # In this order a kill in between leaves what the next removal frees, and never a set that only looks complete.
    objects.delete(f"{path}/{layout.METADATA}")
    if objects.exists(f"{path}/{layout.PLAN_OBJECT}"):  # of format 1: other sets may refer to its features
        for column in layout.FORMAT1_COLUMNS:
            objects.delete_folder(f"{path}/{column}")
        RowsFolder(objects, path).close("")
    else:
        objects.delete_folder(path)
    more, kept = _free_unused(objects)
    shared = sum(objects.size(f"{source}/{layout.FEATURES}/c") for source in sources)
    return Removed(freed_bytes=freed + more, shared_bytes=shared, kept=kept)


def remove_rows(objects: Objects, folder: RowsFolder) -> Removed:
    """Remove the rows of an unfinished extraction; raises StoreBusyError while it is being written."""
    with folder.claim_everything():
        freed = free(objects, folder)
    return Removed(freed_bytes=freed, shared_bytes=folder.size())


def free(objects: Objects, folder: RowsFolder) -> int:
    """Remove the shards of a folder that nothing refers to, and the folder if none is left; it is closed then.

    The caller has claimed everything of it. Returns how many bytes that freed.
    """
    before = folder.size()
    used = shards_in_use(objects, folder.path)[folder.path]
    if not used:
        folder.delete()
        return before
    if not folder.is_closed:
        folder.close("")
    folder.delete_shards(folder.shards() - used)
    objects.delete(folder.lock)
    return before - folder.size()


def _free_unused(objects: Objects) -> tuple[int, tuple[str, ...]]:
    """Free the shards of closed folders that nothing refers to; returns the bytes, and why any were left alone."""
    try:
        used = shards_in_use(objects)
    except CorruptFeaturesError as error:
        return 0, (str(error),)
    freed, kept = 0, []
    for folder in Catalog(objects).closed_folders():
        if used[folder.path] and folder.shards() <= used[folder.path]:
            continue
        try:
            with folder.claim_everything():
                freed += free(objects, folder)
        except (CorruptFeaturesError, StoreBusyError) as error:
            kept.append(str(error))
    return freed, tuple(kept)


def _source_paths(objects: Objects, path: str) -> list[str]:
    """Return the folders with rows of the set at ``path``, none if that cannot be told any more."""
    try:
        content = Catalog(objects).set_content(path)
    except CorruptFeaturesError:
        return []
    return [path] if content["format"] == 1 else [about["path"] for about in content["sources"]]


def shards_in_use(objects: Objects, wanted: str | None = None) -> defaultdict[str, set[int]]:
    """Return the shards, by folder, to whose rows sets and unfinished extractions refer; only of ``wanted`` if given.

    Raises CorruptFeaturesError where it cannot be told of a set.
    """
    found: defaultdict[str, set[int]] = defaultdict(set)
    catalog = Catalog(objects)
    for path in catalog.complete_paths():
        for source, shards in _shards_of_set(objects, path, catalog.set_content(path), wanted):
            found[source] |= shards
    for folder in catalog.rows_folders():
        if not folder.is_closed and folder.path != wanted:
            for record in folder.records():
                for number, path in enumerate(record.sources, start=1):
                    if wanted in (None, path):
                        rows = record.row_R[record.source_R == number]
                        found[path] |= _shards(rows, RowSource.at(objects, path).shard_rows)
    return found


def _shards_of_set(
    objects: Objects, path: str, content: Mapping[str, Any], wanted: str | None
) -> Iterator[tuple[str, set[int]]]:
    if content["format"] == 1:
        if wanted in (None, path):
            yield path, set(range(layout.num_shards(content["num_rows"], content["shard_rows"])))
        return
    if wanted is not None and all(about["path"] != wanted for about in content["sources"]):
        return
    for found in references(content["sources"], read_array(objects, f"{path}/{layout.ROW}")):
        yield found.source["path"], found.shards


def _shards(rows: NDArray[np.int64], shard_rows: int) -> set[int]:
    return set(np.unique(rows // shard_rows).tolist())
