"""Read tables of images (CSV, TSV, JSON Lines, Parquet, plain lists of paths) as rows of texts."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from penultimate.engine.images.image_set import SPLIT_NAMES
from penultimate.store.errors import InputError, LabelsError

MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
LIST_SUFFIX = ".txt"
"""Suffix of a list of paths, a line each, without labels."""

PATH_COLUMNS = ("path", "image", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img_path")
"""Names of the column of paths that are tried, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Names of the columns of a table."""

    path: str | None = None
    """Name of the column of paths; None for the first of PATH_COLUMNS that is there."""

    label: str | None = "label"
    """Name of the column of labels; None to read no labels."""

    split: str = "split"
    """Name of the column of splits, which may be absent."""

    id: str = "id"
    """Name of the column of ids; if it is absent, the paths are the ids."""

    multi_label: bool = False
    """True if a text may hold several labels separated by ``|``; a column of lists has several labels anyhow."""


DEFAULT_COLUMNS = Columns()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """The rows of a table, one an image, in its order."""

    paths: Sequence[str]
    """Path of each image with ``/``, relative to the table's folder or absolute."""

    ids: Sequence[str] | None
    """Id of each image; None where the table has no such column."""

    cells: Sequence[Sequence[str]] | None
    """Labels of each image, one unless there may be several; None where none are read."""

    several: bool
    """True if an image may have several labels: its table's cells are lists, or texts that were asked to be split."""

    splits: Sequence[str] | None
    """Split of each image: ``train``, ``val`` or ``test``; None where the table has no such column."""

    path_column: str


@dataclass(frozen=True, slots=True)
class TableObject:
    """A table that is an object in an object store."""

    where: str
    """Its address, for people."""

    content: bytes

    def __str__(self) -> str:
        return self.where

    @property
    def suffix(self) -> str:
        """Suffix of its name, with the dot."""
        return PurePosixPath(self.where).suffix


def read_rows(table: Path | TableObject, columns: Columns) -> Rows:
    """Read the rows of a table.

    Raises InputError for a file that is no table, an empty one, a missing column, an empty cell and an unknown split.
    """
    frame = _read(table)
    path_column = columns.path or next((column for column in PATH_COLUMNS if column in frame), PATH_COLUMNS[0])
    several = columns.label is not None and (columns.multi_label or _holds_lists(frame, columns.label))
    return Rows(
        paths=[path.replace("\\", "/") for path in _texts(frame, path_column, table, option="--set path_column=NAME")],
        ids=_texts(frame, columns.id, table) if columns.id in frame else None,
        cells=None if columns.label is None else _cells(frame, columns.label, table, several=several),
        several=several,
        splits=_splits(frame, columns.split, table) if columns.split in frame else None,
        path_column=path_column,
    )


def _read(table: Path | TableObject) -> pd.DataFrame:
    suffix = table.suffix.lower()
    if suffix not in (*MANIFEST_SUFFIXES, LIST_SUFFIX):
        raise InputError(
            f"{str(table)!r} is no manifest: expected a file ending in {', '.join(MANIFEST_SUFFIXES)}, or a list of "
            f"paths in {LIST_SUFFIX}"
        )
    try:
        frame = _read_as(table, suffix)
    except (OSError, ValueError) as error:  # pandas' and Arrow's parser errors are ValueErrors
        raise InputError(f"cannot read the manifest {str(table)!r}: {error}") from error
    if frame.empty:
        raise InputError(f"the manifest {str(table)!r} has no rows")
    return frame


def _read_as(table: Path | TableObject, suffix: str) -> pd.DataFrame:
    if suffix == ".parquet":
        return pd.read_parquet(_readable(table))
    if suffix == ".jsonl":
        return pd.DataFrame([json.loads(line) for line in _lines(table)])
    if suffix == LIST_SUFFIX:
        return pd.DataFrame({PATH_COLUMNS[0]: _lines(table)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                _readable(table),
                sep="\t" if suffix == ".tsv" else ",",
                dtype=str,
                keep_default_na=False,  # a class may well be called "NA"
                index_col=False,  # or else a comma at the end of each row shifts all columns by one
            )
        except pd.errors.ParserWarning as warning:
            raise ValueError(
                "its rows have more cells than its header has names, as with a comma at the end of each row, or one in "
                "a path that is not in quotes; take it away, or give the header a name more"
            ) from warning


def _lines(table: Path | TableObject) -> list[str]:
    content = table.content if isinstance(table, TableObject) else table.read_bytes()
    return [line.strip() for line in content.decode("utf-8-sig").splitlines() if line.strip()]


def _lacks(frame: pd.DataFrame, column: str, table: Path | TableObject) -> str:
    """Return what to say of a column that is not there."""
    names = [str(name) for name in frame.columns]
    nearest = get_close_matches(column, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{str(table)!r} has no column {column!r}; it has {', '.join(map(repr, names))}{hint}"


def _readable(table: Path | TableObject) -> Path | BytesIO:
    """Return what pandas reads."""
    return BytesIO(table.content) if isinstance(table, TableObject) else table


def _column(frame: pd.DataFrame, column: str, table: Path | TableObject, option: str | None) -> list[Any]:
    if column not in frame:
        named = f" (name another with {option})" if option else ""
        raise InputError(f"{_lacks(frame, column, table)}{named}")
    values: list[Any] = frame[column].tolist()
    return values


def _texts(frame: pd.DataFrame, column: str, table: Path | TableObject, *, option: str | None = None) -> list[str]:
    values = _column(frame, column, table, option)
    odd = next((value for value in values if isinstance(value, bytes | dict | list | np.ndarray)), None)
    if odd is not None:
        raise InputError(
            f"column {column!r} of {str(table)!r} holds {type(odd).__name__}, not a text a row, as paths and names are"
        )
    texts = [_text(value) for value in values]
    if "" in texts:
        raise InputError(f"row {texts.index('') + 1} of {str(table)!r} has nothing in column {column!r}")
    return texts


def _text(value: Any) -> str:
    """Return a cell as text, which is empty for a missing value."""
    return "" if pd.isna(value) else str(value).strip()


def _holds_lists(frame: pd.DataFrame, column: str) -> bool:
    return column in frame and any(map(_is_list, frame[column]))


def _is_list(value: Any) -> bool:
    return isinstance(value, np.ndarray | list)  # an array is what pandas makes of Parquet's list


def _cells(frame: pd.DataFrame, column: str, table: Path | TableObject, *, several: bool) -> list[list[str]]:
    """Read the labels of each row, one each unless there may be ``several``."""
    if table.suffix.lower() == LIST_SUFFIX:
        raise LabelsError(f"{str(table)!r} is a list of paths without labels", "name a table with a column of labels")
    if column not in frame:
        raise LabelsError(_lacks(frame, column, table), "name another with --label-column")
    values: list[Any] = frame[column].tolist()
    if not several:
        return [[text] for text in _texts(frame, column, table)]
    if not any(map(_is_list, values)):
        return [several_of(_text(value)) for value in values]
    odd = next((row for row, value in enumerate(values, 1) if not _is_list(value) and _text(value)), None)
    if odd is not None:
        raise InputError(f"column {column!r} of {str(table)!r} holds lists, and in row {odd} none; make all rows alike")
    return [[str(label) for label in value] if _is_list(value) else [] for value in values]


def several_of(text: str) -> list[str]:
    """Split the labels in one cell at each ``|``.

    >>> several_of("cat| dog |")
    ['cat', 'dog']
    """
    return [label.strip() for label in text.split("|") if label.strip()]


def _splits(frame: pd.DataFrame, column: str, table: Path | TableObject) -> list[str]:
    texts = _texts(frame, column, table)
    if unknown := sorted({text for text in texts if text.lower() not in SPLIT_NAMES}):
        raise InputError(
            f"column {column!r} of {str(table)!r} has {', '.join(map(repr, unknown[:5]))}; "
            f"expected {', '.join(SPLIT_NAMES)}"
        )
    return [SPLIT_NAMES[text.lower()] for text in texts]
