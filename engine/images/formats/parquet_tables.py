"""Open Parquet files with images in them: which column holds the images, and the rows of each row group.

An image column is a struct of ``bytes`` (the encoded file) and ``path``, as Hugging Face datasets writes it, or binary
and begins with an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from penultimate.engine.images.folders.file_kinds import HEAD_BYTES, IMAGE, kind_of_content
from penultimate.engine.images.formats.indexed_file import IndexedFile
from penultimate.store.errors import InputError


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


@dataclass(frozen=True, slots=True, eq=False)
class ImageTable:
    """One Parquet file with images in it."""

    file: IndexedFile
    column: str
    metadata: parquet.FileMetaData

    group_starts: NDArray[np.int64]
    """First row of each row group and, at the end, the number of rows."""

    @classmethod
    def of(cls, path: Path) -> "ImageTable":
        """Read the metadata of a file; raise InputError if it holds no images."""
        if (column := image_column(path)) is None:
            raise InputError(f"{str(path)!r} holds no images: expected a column of structs of bytes and path")
        file = IndexedFile.of(path)
        metadata = _metadata(path)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return cls(file, column, metadata, np.cumsum([0, *sizes]))

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.file.path

    @property
    def num_rows(self) -> int:
        """Number of rows of the file."""
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
