"""Load images whose paths stand in a table, a manifest, and folders of images with such tables in them."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.folders.folder_tree import parent_of
from penultimate.engine.images.formats.labels import (
    Labelling,
    RandomSplit,
    label_indices,
    ordered_classes,
    splits_by_name,
)
from penultimate.engine.images.formats.remote_images import ObjectPath, list_images, open_table
from penultimate.engine.images.formats.tables import Columns, Rows, TableObject, read_rows
from penultimate.engine.images.image_set import SPLIT_DTYPE, ImageSet
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.images.layout import Interpretation
from penultimate.engine.images.sources import FileSource
from penultimate.engine.images.splits import splits_in_name
from penultimate.store.errors import InputError
from penultimate.store.objects.address import is_address

# Shapes: N samples, K classes.

NOT_NAMED = "images that no table names"


def load_manifest(
    manifest: Path | str,
    *,
    name: str | None = None,
    labels: bool = True,
    path_column: str | None = None,
    label_column: str = "label",
    split_column: str = "split",
    id_column: str = "id",
    multi_label: bool = False,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    metric: str | None = None,
    cache: DigestCache | None = None,
) -> ImageSet:
    """Load images whose paths stand in a table, which is a file or lies at an address.

    Paths are relative to the table's own folder or address, or are addresses.
    ``split`` and ``id`` columns may be absent: ids are then the paths, and splits that are not given are drawn from
    train as ``load_folder`` does (of several labels a sample: at random, not stratified). A label cell may be a list
    or, with ``multi_label``, names separated by ``|``; the metric is then ``map11`` unless another is given. Class
    names that are all integers are ordered as numbers. ``labels=False`` needs no label column, and takes all as
    ``test``. Raises InputError for a missing column, an empty cell, an unknown split, a repeated id, a class of val or
    test that train lacks and a table none of whose files exists.
    """
    columns = Columns(
        path=path_column,
        label=label_column if labels else None,
        split=split_column,
        id=id_column,
        multi_label=multi_label,
    )
    root: Path | ObjectPath = Path(manifest).parent
    table: Path | TableObject = Path(manifest)
    if is_address(manifest):
        root, table = ObjectPath.parse(str(manifest)), open_table(str(manifest))
    rows = read_rows(table, columns)
    random_split = RandomSplit(val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    given_N = np.array(rows.splits if rows.splits is not None else ["train"] * len(rows.paths), SPLIT_DTYPE)
    return _image_set(
        table,
        root,
        rows,
        given_N,
        name=PurePosixPath(str(table)).stem if name is None else name,
        columns=columns,
        random_split=random_split,
        metric=metric,
        provenance={
            "source": "manifest",
            "manifest": str(table.resolve() if isinstance(table, Path) else table),
            "layout": f"the table {PurePosixPath(str(table)).name}",
        },
        cache=cache,
    )


def load_image_folder(
    root: Path,
    found: Interpretation,
    *,
    name: str,
    columns: Columns,
    random_split: RandomSplit,
    cache: DigestCache | None = None,
) -> ImageSet:
    """Load a folder of images whose labels stand in tables called ``metadata``, each for the images below its folder.

    Ids are paths relative to ``root``. Splits are those of a ``split`` column, or of folders with such names, or drawn;
    the images of a table without the label column have no label. Images that no table names are counted in the
    provenance. Raises what ``load_manifest`` raises.
    """
    rows = _joined([_below(root, table, columns, found) for table in found.files])
    left_out = dict(found.left_out)
    if unnamed := len(set(found.beside) - set(rows.paths)):
        left_out[NOT_NAMED] = unnamed
    split_folder_of = {
        path: next((part for part in path.split("/")[:-1] if len(splits_in_name(part)) == 1), "") for path in rows.paths
    }
    folders = sorted(set(split_folder_of.values()))
    split_of = dict(zip(folders, splits_by_name(folders), strict=True))
    splits = rows.splits or [split_of[split_folder_of[path]] for path in rows.paths]
    return _image_set(
        root / found.files[0],
        root,
        rows,
        np.array(splits, SPLIT_DTYPE),
        name=name,
        columns=columns,
        random_split=random_split,
        metric=None,
        provenance={
            "source": "image folder",
            "root": str(root.resolve()),
            "tables": list(found.files),
            "layout": found.sentence,
            "left_out": left_out,
        },
        cache=cache,
    )


def _below(root: Path, table: str, columns: Columns, found: Interpretation) -> Rows:
    """Read a table's rows with paths relative to ``root``; without labels if it lacks a label column others have."""
    unlabelled = Columns(path=columns.path, label=None, split=columns.split, id=columns.id)
    rows = read_rows(root / table, unlabelled if table in found.unlabelled else columns)
    prefix = f"{parent_of(table)}/" if parent_of(table) else ""
    paths = [path if is_address(path) else os.path.normpath(prefix + path) for path in rows.paths]
    return replace(rows, paths=paths, ids=None)


def _joined(parts: Sequence[Rows]) -> Rows:
    if len({part.splits is None for part in parts}) > 1:
        raise InputError("some tables have a column of splits and others none; give it to all or to none")
    if len({part.several for part in parts if part.cells is not None}) > 1:
        raise InputError(
            "some tables have lists of labels and others one label a row; make them alike, or --multi-label"
        )
    return Rows(
        paths=[path for part in parts for path in part.paths],
        ids=None,
        cells=[cell for part in parts for cell in part.cells or [[]] * len(part.paths)],
        several=any(part.several for part in parts),
        splits=None if parts[0].splits is None else [split for part in parts for split in part.splits or ()],
        path_column=parts[0].path_column,
    )


def _image_set(
    table: Path | TableObject,
    root: Path | ObjectPath,
    rows: Rows,
    given_N: NDArray[np.str_],
    *,
    name: str,
    columns: Columns,
    random_split: RandomSplit,
    metric: str | None,
    provenance: Mapping[str, Any],
    cache: DigestCache | None,
) -> ImageSet:
    ids = rows.paths if rows.ids is None else rows.ids
    order = _sorted_unique(ids, str(table))
    labelling = _labelling(rows, order, given_N[order], columns, random_split)
    paths = [rows.paths[position] for position in order]
    drawn = (
        {}
        if columns.label is None
        else {"val_fraction": random_split.val_fraction, "test_fraction": random_split.test_fraction}
    )
    named = {"path": rows.path_column, "label": columns.label, "split": columns.split, "id": columns.id}
    return build_image_set(
        name=name,
        ids=[ids[position] for position in order],
        labels_N=labelling.labels_N,
        split_N=labelling.split_N,
        class_names=labelling.class_names,
        metric=metric or ("map11" if rows.several else "top1"),
        source=_source(str(table), root, paths),
        provenance={**provenance, "columns": named, **drawn, "seed": random_split.seed},
        cache=cache,
    )


def _source(table: str, root: Path | ObjectPath, paths: Sequence[str]) -> ImageSource:
    """Return the source of the images at ``paths``, relative to a folder, or to the table at an address."""
    if isinstance(root, ObjectPath):
        return list_images(table, [root.beside(path) for path in paths], location=os.path.dirname(root.where()))
    if any(map(is_address, paths)):
        located = [ObjectPath.parse(path) if is_address(path) else ObjectPath("", str(root / path)) for path in paths]
        return list_images(table, located, location=str(root.resolve()))
    _check_files(table, root, paths)
    return FileSource(root, paths)


def _labelling(
    rows: Rows, order: Sequence[int], given_N: NDArray[np.str_], columns: Columns, random_split: RandomSplit
) -> Labelling:
    """Label the rows in this order, in which ``given_N`` is already."""
    if rows.cells is None or columns.label is None:
        return Labelling.unlabelled(len(order))
    cells = [rows.cells[position] for position in order]
    if rows.several:
        return Labelling.multi_label(cells, given_N, random_split)
    class_names = ordered_classes(label for cell in cells for label in cell)
    known_N = np.array([bool(cell) for cell in cells])
    labels_N = np.full(len(cells), -1, np.int64)
    labels_N[known_N] = label_indices([cell[0] for cell in cells if cell], class_names)
    return Labelling.single_label(labels_N, class_names, given_N, random_split)


def _sorted_unique(ids: Sequence[str], manifest: str) -> list[int]:
    order = sorted(range(len(ids)), key=ids.__getitem__)
    for first, second in pairwise(order):
        if ids[first] == ids[second]:
            raise InputError(f"{manifest!r} names {ids[first]!r} twice, in rows {first + 1} and {second + 1}")
    return order


def _check_files(manifest: str, root: Path, paths: Sequence[str]) -> None:
    """Raise InputError if no file exists, or if one exists under a name that looks the same in other characters."""
    for path in paths:
        if not path.isascii() and not (root / path).exists() and (form := _other_form(root / path)):
            raise InputError(
                f"{manifest!r} names {path!r} ({path!a}), and the file is there in other Unicode characters "
                f"that look the same ({form}); write the table in them, or rename the file"
            )
    if not any((root / path).exists() for path in paths):
        raise InputError(
            f"none of the {len(paths)} files in {manifest!r} exists; paths are relative to the manifest's "
            f"folder: tried {str(root / paths[0])!r}"
        )


def _other_form(path: Path) -> str | None:
    """Return ``NFC`` or ``NFD`` if the file exists under its name in that normal form, else None."""
    return next((form for form in ("NFC", "NFD") if Path(unicodedata.normalize(form, str(path))).exists()), None)
