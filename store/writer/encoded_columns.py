"""EncodedColumns: columns of a set in, the objects that hold them and their checksums out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.store.format import layout
from penultimate.store.format.arrays import column_objects

# Shapes: M samples of the ImageSet.


class EncodedColumns(NamedTuple):
    """Some columns of a set, by name."""

    objects: Mapping[str, Mapping[str, bytes]]
    """The objects of each column, its metadata included, by name below the column."""

    checksums: Mapping[str, str]

    @classmethod
    def of(cls, columns: Mapping[str, NDArray[Any]]) -> Self:
        """Encode columns, given the values (M, ...) of each."""
        found = {name: _Column.of(name, values_M) for name, values_M in columns.items()}
        return cls(
            objects={name: _encoded(column) for name, column in found.items()},
            checksums={name: column.checksum for name, column in found.items()},
        )

    def and_those_of(self, other: Self) -> Self:
        """Return these columns and others."""
        return type(self)({**self.objects, **other.objects}, {**self.checksums, **other.checksums})


@dataclass(frozen=True, slots=True)
class _Column:
    """A column; two are equal if their names, checksums, dtypes and shapes are."""

    name: str
    checksum: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    values_M: NDArray[Any] = field(compare=False)

    @classmethod
    def of(cls, name: str, values_M: NDArray[Any]) -> Self:
        return cls(name, layout.values_checksum(values_M), values_M.dtype, values_M.shape, values_M)


def _encoded(column: _Column) -> Mapping[str, bytes]:
    is_small = len(column.values_M) <= layout.COLUMN_ROWS  # of more, encoding is nothing beside embedding
    return _encoded_lately(column) if is_small else column_objects(column.name, column.values_M)


@lru_cache(maxsize=8)
def _encoded_lately(column: _Column) -> Mapping[str, bytes]:
    """Encode a small column, or return what was made of an equal one shortly before.

    The sets of all readouts of a network have equal columns. To encode the six of 1,024 samples takes 15 ms, a third of
    the processor time that opening and completing a set takes.
    """
    return column_objects(column.name, column.values_M)
