"""Manifests: a CSV or Parquet table with one row an image."""

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.formats.labels import label_indices, ordered_classes
from penultimate.engine.images.image_set import SPLIT_DTYPE, SPLIT_NAMES, ImageSet
from penultimate.engine.images.sources import FileSource
from penultimate.engine.images.splits import draw_missing_splits
from penultimate.store.errors import InputError

# Shapes: N samples, K classes.

MANIFEST_SUFFIXES = (".csv", ".parquet")
PATH_COLUMNS = ("path", "image", "file", "filename")
"""Names tried, in this order, for the column of paths."""


def load_manifest(
    manifest: Path,
    *,
    name: str | None = None,
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
    """Images whose paths, relative to the manifest's folder, stand in a table.

    ``split`` and ``id`` columns may be absent: ids are then the paths, and splits that are not given are drawn from
    train as ``load_folder`` does (of several labels a sample: at random, not stratified). With ``multi_label`` a
    label cell is a list, or names separated by ``|``, and the metric ``map11`` unless another is given. Class names
    that are all integers are ordered as numbers. Raises InputError for a missing column, an empty cell, an unknown
    split, a repeated id and a table none of whose files exists.
    """
    table = _read(manifest)
    path_column = path_column or next((column for column in PATH_COLUMNS if column in table), PATH_COLUMNS[0])
    paths = [path.replace("\\", "/") for path in _texts(table, path_column, manifest)]
    ids = _texts(table, id_column, manifest) if id_column in table else paths
    order = _sorted_unique(ids, manifest)
    cells = _cells(table, label_column, manifest, multi_label=multi_label)
    class_names = ordered_classes(label for cell in cells for label in cell)
    texts = [] if multi_label else [cell[0] for cell in cells]
    labels_N = (_several(cells, class_names) if multi_label else label_indices(texts, class_names))[order]
    split_N = draw_missing_splits(
        _splits(table, split_column, manifest)[order],
        np.zeros(len(ids), np.int64) if multi_label else labels_N.astype(np.int64),
        ["(all labels)"] if multi_label else class_names,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    paths = [paths[position] for position in order]
    if not any((manifest.parent / path).exists() for path in paths):
        raise InputError(
            f"none of the {len(paths)} files in {str(manifest)!r} exists; paths are relative to the manifest's "
            f"folder: tried {str(manifest.parent / paths[0])!r}"
        )
    return build_image_set(
        name=manifest.stem if name is None else name,
        ids=[ids[position] for position in order],
        labels_N=labels_N,
        split_N=split_N,
        class_names=class_names,
        metric=metric or ("map11" if multi_label else "top1"),
        source=FileSource(manifest.parent, paths),
        provenance={
            "source": "manifest",
            "manifest": str(manifest.resolve()),
            "columns": {"path": path_column, "label": label_column, "split": split_column, "id": id_column},
            "val_fraction": val_fraction,
            "test_fraction": test_fraction,
            "seed": seed,
        },
        cache=cache,
    )


def _read(manifest: Path) -> pd.DataFrame:
    if manifest.suffix.lower() not in MANIFEST_SUFFIXES:
        raise InputError(
            f"{str(manifest)!r} is no manifest: expected a file ending in {' or '.join(MANIFEST_SUFFIXES)}"
        )
    try:
        if manifest.suffix.lower() == ".csv":
            table = pd.read_csv(manifest, dtype=str, keep_default_na=False)  # a class may well be called "NA"
        else:
            table = pd.read_parquet(manifest)
    except (OSError, ValueError) as error:  # pandas' and Arrow's parser errors are ValueErrors
        raise InputError(f"cannot read the manifest {str(manifest)!r}: {error}") from error
    if table.empty:
        raise InputError(f"the manifest {str(manifest)!r} has no rows")
    return table


def _column(table: pd.DataFrame, column: str, manifest: Path) -> list[Any]:
    if column not in table:
        names = [str(name) for name in table.columns]
        nearest = get_close_matches(column, names, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise InputError(f"{str(manifest)!r} has no column {column!r}; it has {', '.join(map(repr, names))}{hint}")
    values: list[Any] = table[column].tolist()
    return values


def _texts(table: pd.DataFrame, column: str, manifest: Path) -> list[str]:
    texts = [_text(value) for value in _column(table, column, manifest)]
    if "" in texts:
        raise InputError(f"row {texts.index('') + 1} of {str(manifest)!r} has nothing in column {column!r}")
    return texts


def _text(value: Any) -> str:
    """Empty for a missing value."""
    return "" if pd.isna(value) else str(value).strip()


def _cells(table: pd.DataFrame, column: str, manifest: Path, *, multi_label: bool) -> list[list[str]]:
    """The labels of each row; one each unless ``multi_label``."""
    values = _column(table, column, manifest)
    if any(isinstance(value, np.ndarray) for value in values):  # what pandas makes of a Parquet list
        if not multi_label:
            raise InputError(f"column {column!r} of {str(manifest)!r} holds lists; ask for them with multi_label=True")
        return [[str(label) for label in value] if isinstance(value, np.ndarray) else [] for value in values]
    if not multi_label:
        return [[text] for text in _texts(table, column, manifest)]
    return [[label.strip() for label in _text(value).split("|") if label.strip()] for value in values]


def _several(cells: Sequence[Sequence[str]], class_names: Sequence[str]) -> NDArray[np.uint8]:
    """(N, K) 0/1."""
    index_of = {class_name: label for label, class_name in enumerate(class_names)}
    several_NK = np.zeros((len(cells), len(class_names)), np.uint8)
    for row, cell in enumerate(cells):
        several_NK[row, [index_of[label] for label in cell]] = 1
    return several_NK


def _splits(table: pd.DataFrame, column: str, manifest: Path) -> NDArray[np.str_]:
    if column not in table:
        return np.full(len(table), "train", SPLIT_DTYPE)
    texts = _texts(table, column, manifest)
    if unknown := sorted({text for text in texts if text.lower() not in SPLIT_NAMES}):
        raise InputError(
            f"column {column!r} of {str(manifest)!r} has {', '.join(map(repr, unknown[:5]))}; "
            f"expected {', '.join(SPLIT_NAMES)}"
        )
    return np.array([SPLIT_NAMES[text.lower()] for text in texts], SPLIT_DTYPE)


def _sorted_unique(ids: Sequence[str], manifest: Path) -> list[int]:
    order = sorted(range(len(ids)), key=ids.__getitem__)
    for first, second in pairwise(order):
        if ids[first] == ids[second]:
            raise InputError(f"{str(manifest)!r} names {ids[first]!r} twice, in rows {first + 1} and {second + 1}")
    return order
