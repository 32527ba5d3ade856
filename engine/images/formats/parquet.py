"""Load Parquet files with images in them, as Hugging Face datasets writes them or with a column of encoded files."""

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
from typing_extensions import override

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.digest_cache import DigestCache, FileFingerprint
from penultimate.engine.images.formats.file_patterns import stems
from penultimate.engine.images.formats.labels import DEFAULT_RANDOM_SPLIT, Labelling, RandomSplit, splits_by_name
from penultimate.engine.images.formats.parquet_labels import parquet_labelling
from penultimate.engine.images.formats.parquet_tables import ImageTable
from penultimate.engine.images.formats.tables import DEFAULT_COLUMNS, Columns
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.image_source import ImageSource
from penultimate.store.errors import InputError

# Shapes: N samples.


def load_parquet_images(
    files: Sequence[Path],
    *,
    name: str,
    labels: bool = True,
    columns: Columns = DEFAULT_COLUMNS,
    random_split: RandomSplit = DEFAULT_RANDOM_SPLIT,
    metric: str | None = None,
    left_out: Mapping[str, int] | None = None,
    cache: DigestCache | None = None,
) -> ImageSet:
    """Load images inside Parquet files; ids are ``<file without .parquet>/<row>``.

    Class names are those of the schema's ClassLabel, else the distinct values of ``columns.label``. If that holds lists
    or, with ``multi_label``, names separated by ``|``, the metric is ``map11`` unless another is given. Files whose
    ClassLabels number the same names otherwise are mapped by name to the numbers of the first, to which names that it
    lacks are added. Splits are those that the files' names tell (``train-00000-of-00002.parquet``), others are drawn as
    by ``load_folder``; ``labels=False`` reads no labels and takes all as ``test``. A row without bytes is an image that
    cannot be read. ``left_out`` is kept in the provenance. Raises InputError for a file without images, a missing
    column, files of which some have class names and others bare numbers, a label that is none of the class names, and a
    class of val or test that train lacks.
    """
    shared, names = stems([path.resolve() for path in files])
    by_name = sorted(zip([f"{name}/" for name in names], files, strict=True))
    tables = [ImageTable.of(path) for _, path in by_name]
    counts = [table.num_rows for table in tables]
    if not sum(counts):
        raise InputError(f"{str(files[0])!r} has no rows")
    ids = [f"{stem}{row:07d}" for (stem, _), count in zip(by_name, counts, strict=True) for row in range(count)]
    given_N = np.repeat(splits_by_name([stem for stem, _ in by_name]), counts)
    label_column = columns.label or "label"
    labelling = Labelling.unlabelled(len(ids))
    if labels:
        labelling = parquet_labelling(tables, label_column, given_N, random_split, multi_label=columns.multi_label)
    return build_image_set(
        name=name,
        ids=ids,
        labels_N=labelling.labels_N,
        split_N=labelling.split_N,
        class_names=labelling.class_names,
        metric=metric or ("map11" if labelling.labels_N.ndim == 2 else "top1"),
        source=ParquetSource(tables, location=str(shared)),
        provenance={
            "source": "parquet images",
            "root": str(shared),
            "files": len(files),
            "labels": label_column if labels else False,
            "layout": f"{len(files):,} Parquet file{'s' * (len(files) != 1)} with images in",
            "left_out": dict(left_out or {}),
            "seed": random_split.seed,
        },
        cache=cache,
    )


class ParquetSource(ImageSource):
    """A source of samples that are rows of Parquet files; the fingerprint of a sample is that of its file.

    Row groups are read as a whole. One is kept as long as any thread is at one of its rows, so that there are at most
    as many in memory as threads that read, and only one where they read neighbouring rows.
    """

    def __init__(self, tables: Sequence[ImageTable], *, location: str) -> None:
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
