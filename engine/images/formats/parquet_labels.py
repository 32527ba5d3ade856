"""Read the labels of Parquet files with images in them, whose schemas may say what the numbers stand for.

The meaning of a column stands in the schema's metadata, under ``huggingface``:
``{"info": {"features": {"label": {"_type": "ClassLabel", "names": [...]}}}}``, or, where a row has a list of labels,
``{"_type": "List", "feature": {"_type": "ClassLabel", ...}}`` (before version 4 of datasets ``Sequence``, or a list).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from penultimate.engine.images.formats.labels import (
    Labelling,
    RandomSplit,
    checked_indices,
    label_indices,
    ordered_classes,
)
from penultimate.engine.images.formats.parquet_tables import ImageTable
from penultimate.engine.images.formats.tables import several_of
from penultimate.store.errors import InputError, LabelsError

# Shapes: N samples.


class _Column(NamedTuple):
    """The labels of one file."""

    table: ImageTable

    cells: pa.ChunkedArray
    """One value a row, or one list of values."""

    names: list[str] | None
    """Names that the values are numbers of; None where values are texts or bare numbers."""

    @property
    def holds_lists(self) -> bool:
        return _is_list(self.cells.type)

    @property
    def is_unlabelled(self) -> bool:
        """True where no row has a label: all are null or, of numbers, -1."""
        values = self.cells.drop_null()
        return not len(values) or (pa.types.is_integer(values.type) and values.unique().to_pylist() == [-1])

    def values(self) -> pa.ChunkedArray:
        """Return every label of the file, in order, without nulls."""
        cells = self.cells.drop_null()
        return (
            pa.chunked_array([chunk.flatten() for chunk in cells.chunks], cells.type.value_type)
            if self.holds_lists
            else cells
        )


def parquet_labelling(
    tables: Sequence[ImageTable],
    column: str,
    given_N: NDArray[np.str_],
    random_split: RandomSplit,
    *,
    multi_label: bool,
) -> Labelling:
    """Label the rows of all files, in their order, and draw the splits that are not given.

    Rows have several labels if the column holds lists or, with ``multi_label``, texts that may be separated by ``|``.
    Raises InputError for a column that is missing or of another type, rows without a label, files that disagree, and
    what ``Labelling`` refuses.
    """
    columns = [_column(table, column) for table in tables]
    if partly := next((each for each in columns if 0 < each.cells.null_count < len(each.cells)), None):
        raise LabelsError(
            f"some rows of {column!r} in {str(partly.table.path)!r} have no label", "label them or take them out"
        )
    labelled = [each for each in columns if not each.is_unlabelled]
    _check_same_meaning(labelled, column)
    several = multi_label or any(each.holds_lists for each in labelled)
    if several and not multi_label and (single := next((each for each in labelled if not each.holds_lists), None)):
        raise InputError(
            f"{column!r} holds lists of labels in some files and one label a row in {str(single.table.path)!r}; take "
            "every row as a list with --multi-label (multi_label=True)"
        )
    return (_several if several else _single)(columns, column, given_N, random_split)


def _single(columns: Sequence[_Column], column: str, given_N: NDArray[np.str_], random_split: RandomSplit) -> Labelling:
    known = dict.fromkeys(name for each in columns for name in each.names or ())
    texts = {
        str(value)
        for each in columns
        if each.names is None and not each.is_unlabelled
        for value in each.values().unique().to_pylist()
    }
    class_names = [*known, *ordered_classes(texts - known.keys())]
    labels_N = np.concatenate([_indices(each, class_names, column) for each in columns])
    return Labelling.single_label(labels_N, class_names, given_N, random_split)


def _indices(each: _Column, class_names: Sequence[str], column: str) -> NDArray[np.int64]:
    """Return the position of each row's class in ``class_names``; -1 in a file without labels."""
    if each.is_unlabelled:
        return np.full(len(each.cells), -1, np.int64)
    if each.names is None:
        return label_indices([str(value) for value in each.cells.to_pylist()], class_names)
    own_N = checked_indices(each.cells.to_numpy(), each.names, _where(each, column))
    return label_indices(each.names, class_names)[own_N]


def _several(
    columns: Sequence[_Column], column: str, given_N: NDArray[np.str_], random_split: RandomSplit
) -> Labelling:
    """Label rows with lists of labels; class names are those of the schemas, with any others that occur behind them."""
    cells = [cell for each in columns for cell in _lists(each, column)]
    known = dict.fromkeys(name for each in columns for name in each.names or ())
    others = ordered_classes({label for cell in cells for label in cell} - known.keys())
    class_names = [*known, *others] if known else None
    return Labelling.multi_label(cells, given_N, random_split, class_names=class_names)


def _lists(each: _Column, column: str) -> list[list[str]]:
    """Return the labels of each row as names."""
    if each.is_unlabelled:
        return [[] for _ in range(len(each.cells))]
    values = each.cells.to_pylist()
    if each.names is None and not each.holds_lists:
        return [several_of(str(value)) for value in values]
    lists = values if each.holds_lists else [[value] for value in values]
    if each.names is None:
        return [[str(value) for value in cell] for cell in lists]
    checked_indices(each.values().to_numpy(), each.names, _where(each, column))
    return [[each.names[value] for value in cell] for cell in lists]


def _where(each: _Column, column: str) -> str:
    return f"{column!r} in {str(each.table.path)!r}"


def _check_same_meaning(labelled: Sequence[_Column], column: str) -> None:
    """Raise InputError if some files have bare numbers for labels, and others names or texts."""
    bare = [each for each in labelled if each.names is None and pa.types.is_integer(_value_type(each.cells.type))]
    if bare and len(bare) < len(labelled):
        other = next(each for each in labelled if each not in bare)
        raise LabelsError(
            f"{column!r} holds bare numbers in {str(bare[0].table.path)!r} and names in {str(other.table.path)!r}, so "
            "nobody can say which number is which name",
            "read them apart",
        )


def _column(table: ImageTable, column: str) -> _Column:
    schema = table.metadata.schema.to_arrow_schema()
    if column not in schema.names:
        others = ", ".join(name for name in schema.names if name != table.column)
        raise LabelsError(
            f"{str(table.path)!r} has no column {column!r}; its other columns are {others or 'none'}",
            "name the label's (--label-column)",
        )
    kind = schema.field(column).type
    known = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    if not any(is_known(_value_type(kind)) for is_known in known):
        raise InputError(
            f"{column!r} of {str(table.path)!r} should hold one integer or text a row, or a list of them, not {kind}"
        )
    try:
        cells = parquet.read_table(table.path, columns=[column]).column(0)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {column!r} of {str(table.path)!r}: {error}") from error
    found = _Column(table, cells, _class_names(table, column))
    if found.holds_lists and any(chunk.flatten().null_count for chunk in cells.chunks):
        raise InputError(f"some lists of {column!r} in {str(table.path)!r} hold a null; take it out")
    return found


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in tests)


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of one label."""
    return kind.value_type if _is_list(kind) else kind


def _class_names(table: ImageTable, column: str) -> list[str] | None:
    """Return the names of the schema's ClassLabel, or None if neither the column nor what its lists hold is one."""
    document = (table.metadata.schema.to_arrow_schema().metadata or {}).get(b"huggingface")
    if document is None:
        return None
    try:
        feature: Any = json.loads(document)["info"]["features"].get(column, {})
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"the huggingface metadata of {str(table.path)!r} cannot be read: {error!r}") from error
    is_label = isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
    return [str(name) for name in feature["names"]] if is_label else None
