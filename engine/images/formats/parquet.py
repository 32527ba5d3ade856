"""Load Parquet files with images in them, as Hugging Face datasets writes them or with a column of encoded files.

An image column is a struct of ``bytes`` (the encoded file) and ``path``, or binary and begins with an image.
The meaning of a column stands in the schema's metadata, under ``huggingface``:
``{"info": {"features": {"label": {"_type": "ClassLabel", "names": [...]}}}}``.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from typing_extensions import override

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.digest_cache import DigestCache, FileFingerprint
from penultimate.engine.images.folders.file_kinds import HEAD_BYTES, IMAGE, kind_of_content
from penultimate.engine.images.formats.file_patterns import stems
from penultimate.engine.images.formats.indexed_file import IndexedFile
from penultimate.engine.images.formats.labels import (
    DEFAULT_RANDOM_SPLIT,
    Labelling,
    RandomSplit,
    checked_indices,
    label_indices,
    ordered_classes,
    splits_by_name,
)
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.image_source import ImageSource
from penultimate.store.errors import InputError

# Shapes: N samples.


def image_column(path: Path) -> str | None:
    """Return the name of the first column of images in a Parquet file, or None if it has none.

    Raises InputError if the file is no Parquet.
    """
    schema = _metadata(path).schema.to_arrow_schema()
    structs = [field.name for field in schema if _is_images(field.type)]
    binary = [field.name for field in schema if _is_binary(field.type)]
    return next(iter(structs), None) or next((column for column in binary if _begins_with_image(path, column)), None)


def parquet_columns(path: Path) -> list[str]:
    """Return the column names of a Parquet file; raise InputError if it is none."""
    return list(_metadata(path).schema.to_arrow_schema().names)


def load_parquet_images(
    files: Sequence[Path],
    *,
    name: str,
    labels: bool = True,
    label_column: str = "label",
    random_split: RandomSplit = DEFAULT_RANDOM_SPLIT,
    metric: str = "top1",
    left_out: Mapping[str, int] | None = None,
    cache: DigestCache | None = None,
) -> ImageSet:
    """Load images inside Parquet files; ids are ``<file without .parquet>/<row>``.

    Class names are those of the schema's ClassLabel, else the distinct values of ``label_column``. Files whose
    ClassLabels number the same names otherwise are mapped by name to the numbers of the first, to which names that it
    lacks are added. Splits are those that the files' names tell (``train-00000-of-00002.parquet``), others are drawn as
    by ``load_folder``; ``labels=False`` reads no labels and takes all as ``test``. A row without bytes is an image that
    cannot be read. ``left_out`` is kept in the provenance. Raises InputError for a file without images, a missing
    column, files of which some have class names and others bare numbers, a label that is none of the class names, and a
    class of val or test that train lacks.
    """
    shared, names = stems([path.resolve() for path in files])
    by_name = sorted(zip([f"{name}/" for name in names], files, strict=True))
    tables = [_Table.of(path) for _, path in by_name]
    counts = [table.num_rows for table in tables]
    if not sum(counts):
        raise InputError(f"{str(files[0])!r} has no rows")
    ids = [f"{stem}{row:07d}" for (stem, _), count in zip(by_name, counts, strict=True) for row in range(count)]
    given_N = np.repeat(splits_by_name([stem for stem, _ in by_name]), counts)
    labelling = _labelling(tables, label_column, given_N, random_split) if labels else Labelling.unlabelled(len(ids))
    return build_image_set(
        name=name,
        ids=ids,
        labels_N=labelling.labels_N,
        split_N=labelling.split_N,
        class_names=labelling.class_names,
        metric=metric,
        source=ParquetSource(tables, location=str(shared)),
        provenance={
            "source": "parquet images",
            "root": str(shared),
            "files": len(files),
            "labels": label_column if labels else False,
            "layout": f"{len(files):,} Parquet files with images in them",
            "left_out": dict(left_out or {}),
            "seed": random_split.seed,
        },
        cache=cache,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """One Parquet file with images in it."""

    file: IndexedFile
    column: str
    metadata: parquet.FileMetaData

    group_starts: NDArray[np.int64]
    """First row of each row group and, at the end, the number of rows."""

    @classmethod
    def of(cls, path: Path) -> "_Table":
        """Read the metadata of a file; raise InputError if it holds no images."""
        if (column := image_column(path)) is None:
            raise InputError(f"{str(path)!r} holds no images: expected a column of structs of bytes and path")
        file = IndexedFile.of(path)
        metadata = _metadata(path)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return cls(file, column, metadata, np.cumsum([0, *sizes]))

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def num_rows(self) -> int:
        return int(self.group_starts[-1])

    @property
    def bytes_column(self) -> str:
        """Path of the column that holds the encoded files themselves."""
        struct = _is_images(self.metadata.schema.to_arrow_schema().field(self.column).type)
        return f"{self.column}.bytes" if struct else self.column

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Read some columns of a row group; raise OSError if that fails, VanishedImageError of another file."""
        try:
            with parquet.ParquetFile(self.path, metadata=self.metadata) as file:
                found = file.read_row_group(group, columns=list(columns))
        except OSError:
            self.file.check()
            raise
        except ValueError as error:  # Arrow's errors are ValueErrors
            self.file.check()
            raise OSError(f"{self.path} is damaged: {error}") from error
        self.file.check()
        return found


class ParquetSource(ImageSource):
    """A source of samples that are rows of Parquet files; the fingerprint of a sample is that of its file.

    Row groups are read as a whole. One is kept as long as any thread is at one of its rows, so that there are at most
    as many in memory as threads that read, and only one where they read neighbouring rows.
    """

    def __init__(self, tables: Sequence[_Table], *, location: str) -> None:
        self._location = location
        self._tables = tables
        self._starts = np.cumsum([0, *(table.num_rows for table in tables)])
        self._of_thread = threading.local()
        self._groups: WeakValueDictionary[tuple[int, int], pa.ChunkedArray] = WeakValueDictionary()
        self._locks = [threading.Lock() for _ in range(64)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the tables' metadata, without the row groups in memory."""
        return partial(ParquetSource, location=self._location), (self._tables,)

    @property
    @override
    def location(self) -> str:
        return self._location

    @property
    @override
    def reads_at_once(self) -> int:
        return 1

    @override
    def read(self, index: int) -> bytes:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        table, row = self._tables[number], index - int(self._starts[number])
        group = int(np.searchsorted(table.group_starts, row, side="right")) - 1
        images = self._of_thread.group = self._group(number, group)
        cell = images[row - int(table.group_starts[group])].as_py()
        content: bytes | None = cell["bytes"] if isinstance(cell, dict) else cell
        if content is None:
            raise OSError("its row holds no bytes")
        return content

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return FileFingerprint.of(self._tables[int(np.searchsorted(self._starts, index, side="right")) - 1].path)

    def _group(self, number: int, group: int) -> pa.ChunkedArray:
        with self._locks[hash((number, group)) % len(self._locks)]:
            if (images := self._groups.get((number, group))) is None:
                table = self._tables[number]
                images = self._groups[number, group] = table.read(group, [table.bytes_column]).column(0)
            return images


def _metadata(path: Path) -> parquet.FileMetaData:
    try:
        return parquet.read_metadata(path)
    except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
        raise InputError(f"cannot read {str(path)!r} as Parquet: {error}") from error


def _is_images(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    return _is_binary(kind.field("bytes").type)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _begins_with_image(path: Path, column: str) -> bool:
    """Return whether the first value of a binary column that is not null is an image; rows are read one at a time."""
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=1, columns=[column]):
                if (content := batch.column(0)[0].as_py()) is not None:
                    return kind_of_content(column, content[:HEAD_BYTES]) == IMAGE
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {column!r} of {str(path)!r}: {error}") from error
    return False


def _labelling(
    tables: Sequence[_Table], column: str, given_N: NDArray[np.str_], random_split: RandomSplit
) -> Labelling:
    columns = [_label_cells(table, column) for table in tables]
    if partly := [t for t, cells in zip(tables, columns, strict=True) if 0 < cells.null_count < len(cells)]:
        raise InputError(
            f"some rows of {column!r} in {str(partly[0].path)!r} have no label; take the images without labels "
            "(--no-labels)"
        )
    names = [_class_names(table, column) for table in tables]
    _check_same_meaning(tables, columns, names, column)
    known = dict.fromkeys(name for own in names for name in own or ())
    texts = {str(v) for own, cells in zip(names, columns, strict=True) if own is None for v in _distinct(cells)}
    class_names = [*known, *ordered_classes(texts - known.keys())]
    parts = [_indices(*each, class_names, column) for each in zip(tables, columns, names, strict=True)]
    return Labelling.single_label(np.concatenate(parts), class_names, given_N, random_split)


def _distinct(cells: pa.ChunkedArray) -> list[Any]:
    values: list[Any] = cells.drop_null().unique().to_pylist()
    return values


def _indices(
    table: _Table, cells: pa.ChunkedArray, names: list[str] | None, class_names: Sequence[str], column: str
) -> NDArray[np.int64]:
    """Return the position of each row's class in ``class_names``; -1 in a file without labels (all null or all -1)."""
    if cells.null_count == len(cells):
        return np.full(len(cells), -1, np.int64)
    if names is None:
        return label_indices([str(value) for value in cells.to_pylist()], class_names)
    own_N = cells.to_numpy()
    if (own_N == -1).all():
        return np.full(len(cells), -1, np.int64)
    where = f"{column!r} in {str(table.path)!r}"
    return label_indices(names, class_names)[checked_indices(own_N, names, where)]


def _check_same_meaning(
    tables: Sequence[_Table], columns: Sequence[pa.ChunkedArray], names: Sequence[list[str] | None], column: str
) -> None:
    """Raise InputError if some files have bare numbers for labels, and others names or texts."""
    labelled = [each for each in zip(tables, columns, names, strict=True) if each[1].null_count < len(each[1])]
    bare = [table for table, cells, own in labelled if own is None and pa.types.is_integer(cells.type)]
    if bare and len(bare) < len(labelled):
        other = next(table for table, _, _ in labelled if table not in bare)
        raise InputError(
            f"{column!r} holds bare numbers in {str(bare[0].path)!r} and names in {str(other.path)!r}, so nobody can "
            "say which number is which name; read them apart, or take the images without labels (--no-labels)"
        )


def _label_cells(table: _Table, column: str) -> pa.ChunkedArray:
    schema = table.metadata.schema.to_arrow_schema()
    if column not in schema.names:
        others = ", ".join(name for name in schema.names if name != table.column)
        raise InputError(
            f"{str(table.path)!r} has no column {column!r}; its other columns are {others or 'none'}: name the label's "
            "(--label-column), or take the images without labels (--no-labels)"
        )
    kind = schema.field(column).type
    known = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    if not any(is_known(kind) for is_known in known):
        raise InputError(f"{column!r} of {str(table.path)!r} should hold one integer or text a row, not {kind}")
    try:
        return parquet.read_table(table.path, columns=[column]).column(0)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {column!r} of {str(table.path)!r}: {error}") from error


def _class_names(table: _Table, column: str) -> list[str] | None:
    """Return the names of the schema's ClassLabel, or None if the column is no ClassLabel."""
    document = (table.metadata.schema.to_arrow_schema().metadata or {}).get(b"huggingface")
    if document is None:
        return None
    try:
        feature: Any = json.loads(document)["info"]["features"].get(column, {})
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"the huggingface metadata of {str(table.path)!r} cannot be read: {error!r}") from error
    return [str(name) for name in feature["names"]] if feature.get("_type") == "ClassLabel" else None
