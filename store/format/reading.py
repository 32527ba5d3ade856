"""Read stored arrays through Zarr; damaged bytes raise CorruptFeaturesError."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from penultimate.store.errors import CorruptFeaturesError, PenultimateError
from penultimate.store.format import layout
from penultimate.store.objects.objects import Objects

ALL_ROWS = slice(None)


def open_array(objects: Objects, name: str) -> "zarr.Array[Any]":
    """Open the array at ``name`` for reading."""
    with read_errors(objects, name):
        return zarr.open_array(objects.store, path=name, mode="r")


def read_array(objects: Objects, name: str, rows: slice = ALL_ROWS) -> NDArray[Any]:
    """Return the values of some rows of the array at ``name``; raises CorruptFeaturesError if a checksum differs."""
    array = open_array(objects, name)
    with read_errors(objects, name, rows):
        return np.asarray(array[rows])


@contextmanager
def read_errors(objects: Objects, name: str, rows: slice = ALL_ROWS) -> Iterator[None]:
    """Turn what Zarr raises for damaged bytes into CorruptFeaturesError, inside ``objects.errors``."""
    try:
        with objects.errors(name):
            yield
    except (ValueError, RuntimeError) as error:
        if isinstance(error, PenultimateError):
            raise
        where = "" if rows == ALL_ROWS else f", rows {rows.start} to {rows.stop},"
        raise CorruptFeaturesError(
            f"{objects.where(name)}{where} does not hold what was written: {error}; `penultimate store verify` says "
            "what else, `penultimate store rm` removes the key, so that it can be extracted again"
        ) from error


def array_documents(objects: Objects, path: str, names: Iterable[str]) -> dict[str, bytes]:
    """Return the ``zarr.json`` of arrays of the group at ``path`` by name; b"" for one that is missing."""
    wanted = list(names)
    documents = objects.get_many([f"{path}/{name}/{layout.METADATA}" for name in wanted])
    return {name: document or b"" for name, document in zip(wanted, documents, strict=True)}
