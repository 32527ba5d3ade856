"""EncodedColumns are what Zarr reads as the same values, and equal columns are encoded once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from penultimate.store.format import layout
from penultimate.store.format.layout import variable_width
from penultimate.store.writer.encoded_columns import EncodedColumns

COLUMNS: dict[str, Callable[[], NDArray[Any]]] = {
    layout.IDS: lambda: variable_width(["a.jpg", "ß.jpg", "c.jpg"]),
    layout.LABELS: lambda: np.array([2, 0, 1]),
    layout.CONTENT: lambda: np.arange(9, dtype=np.uint64).reshape(3, 3),
}


def read(encoded: EncodedColumns, name: str) -> NDArray[Any]:
    store = MemoryStore()
    for part, content in encoded.objects[name].items():
        sync(store.set(part, default_buffer_prototype().buffer.from_bytes(content)))
    return np.asarray(zarr.open_array(store, mode="r")[:])


@pytest.mark.parametrize("name", COLUMNS)
def test_equal_values_have_the_objects_that_were_made_of_them_first(name: str) -> None:
    first, again = (EncodedColumns.of({name: COLUMNS[name]()}) for _ in range(2))
    assert again.objects[name] is first.objects[name]
    assert first.checksums == again.checksums == {name: layout.values_checksum(COLUMNS[name]())}
    assert read(again, name).tolist() == COLUMNS[name]().tolist()


@pytest.mark.parametrize(
    "other",
    [
        {layout.LABELS: np.array([2, 0, 2])},
        {layout.LABELS: np.array([[1, 0], [0, 1]], np.uint8)},
        {layout.ROW: np.array([2, 0, 1])},
        {layout.CONTENT: np.arange(18, dtype=np.uint64).reshape(6, 3)[:3] + 1},
    ],
)
def test_other_values_types_shapes_and_names_are_other_columns(other: dict[str, NDArray[Any]]) -> None:
    EncodedColumns.of({name: make() for name, make in COLUMNS.items()})
    ((name, values_M),) = other.items()
    found = read(EncodedColumns.of(other), name)
    np.testing.assert_array_equal(found, values_M, strict=True)


def test_the_same_bytes_in_another_shape_or_type_are_another_column() -> None:
    flat, square = np.arange(4, dtype=np.uint8), np.arange(4, dtype=np.uint8).reshape(2, 2)
    for values in (flat.view(np.int32).astype(np.int64), square, square.reshape(1, 4), square.reshape(4, 1)):
        found = read(EncodedColumns.of({layout.LABELS: values}), layout.LABELS)
        np.testing.assert_array_equal(found, values, strict=True)


def test_columns_are_joined_by_name() -> None:
    of_plan, found = (EncodedColumns.of({name: COLUMNS[name]()}) for name in (layout.IDS, layout.LABELS))
    both = of_plan.and_those_of(found)
    assert set(both.objects) == set(both.checksums) == {layout.IDS, layout.LABELS}
