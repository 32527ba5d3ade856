"""Inventory: what a store holds, complete, incomplete or damaged, for those who list, find and remove it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from penultimate.store.catalog import Catalog
from penultimate.store.errors import CorruptFeaturesError, UnknownNameError
from penultimate.store.key import Embedding, FeatureKey
from penultimate.store.objects.objects import Objects
from penultimate.store.rows.rows_folder import RowsFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Incomplete:
    """An extraction that is not complete."""

    dataset: str
    embedding: Embedding
    path: str

    digest: str
    """16 hex digits, by which ``FeatureStore.find_any`` finds it."""

    num_rows: int
    """Number of samples."""

    done_rows: int
    """Number of samples in committed blocks, of which nothing is computed again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Damaged:
    """A set, or the rows of an extraction, that does not tell any more what it is: it was damaged, or half removed."""

    path: str

    digest: str
    """The last part of the path."""


_Named = TypeVar("_Named", FeatureKey, FeatureKey | Incomplete | Damaged)


class Inventory:
    """All that the store in ``objects`` holds, looked up anew at every call."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._catalog = Catalog(objects)

    def keys(self) -> list[FeatureKey]:
        """Return the complete keys, in the order of their paths."""
        return [self._catalog.key_at(path) for path in self._catalog.complete_paths()]

    def incomplete(self) -> list[Incomplete]:
        """Return the extractions that are not complete."""
        return [found for folder in self._unfinished() if (found := _incomplete(folder)) is not None]

    def everything(self) -> list[FeatureKey | Incomplete | Damaged]:
        """Return the complete keys, the incomplete extractions, and what is too damaged to be either."""
        complete = (_or_damaged(path, self._catalog.key_at) for path in self._catalog.complete_paths())
        begun = (_or_damaged(folder.path, self._incomplete_at) for folder in self._unfinished())
        left = (Damaged(path=path, digest=path.rpartition("/")[2]) for path in self._catalog.remains())
        return [found for found in (*complete, *begun, *left) if found is not None]

    def _incomplete_at(self, path: str) -> Incomplete | None:
        return _incomplete(RowsFolder(self._objects, path))

    def _unfinished(self) -> Iterator[RowsFolder]:
        of_format_1 = (path for path in self._catalog.set_paths() if not self._catalog.is_complete(path))
        folders = chain(self._catalog.rows_folders(), (RowsFolder(self._objects, path) for path in of_format_1))
        return (folder for folder in folders if not folder.is_closed)


def _or_damaged(
    path: str, read: Callable[[str], FeatureKey | Incomplete | None]
) -> FeatureKey | Incomplete | Damaged | None:
    """Return what ``read`` finds at a path, Damaged where it raises CorruptFeaturesError."""
    try:
        return read(path)
    except CorruptFeaturesError:
        return Damaged(path=path, digest=path.rpartition("/")[2])


def _incomplete(folder: RowsFolder) -> Incomplete | None:
    """Return what an unfinished folder's plan and records say of it, None if it was not set up."""
    if (plan := folder.plan_content()) is None:
        return None
    shard_rows = plan["shard_rows"]
    if plan["format"] == 1:
        key = FeatureKey(**plan["key"])
        done = sum(min(shard_rows, plan["num_rows"] - shard * shard_rows) for shard in folder.committed())
        return Incomplete(
            dataset=key.dataset,
            embedding=key.embedding,
            path=folder.path,
            digest=key.digest,
            num_rows=plan["num_rows"],
            done_rows=done,
        )
    return Incomplete(
        dataset=plan["dataset"],
        embedding=Embedding(**plan["embedding"]),
        path=folder.path,
        digest=plan["job"],
        num_rows=plan["num_samples"],
        done_rows=sum(len(record.samples) for record in folder.records()),
    )


def the_one(name: str, known: Sequence[_Named]) -> _Named:
    """Return the one of ``known`` whose digest or path begins with ``name``; raises UnknownNameError."""
    found = [each for each in known if each.digest.startswith(name) or each.path.startswith(name)]
    if len(found) != 1 or not name:
        raise UnknownNameError("key", name, [text for each in found or known for text in (each.path, each.digest)])
    return found[0]
