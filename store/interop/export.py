"""Export a FeatureSet as plain files that are read without penultimate: a folder of arrays and tables, or a CSV.

The folder has the layout of clip-retrieval (https://github.com/rom1504/clip-retrieval):

<folder>/features.npy        (N, D), as stored
<folder>/metadata.parquet    one row for each row of features: row, id, label (an index, or a list of 0/1), class, split
<folder>/failed.parquet      id, reason: the samples that have no row
<folder>/provenance.json     the key, the metric, the class names and how the features came about
"""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.objects.local import storage_errors

BATCH_ROWS = 16_384
"""Rows held in memory at once: 80 MiB at D = 1,280 in float32."""


def export_numpy(features: FeatureSet, folder: str | Path) -> Path:
    """Write all of ``features`` into ``folder`` and return it; raises InputError unless it is absent or empty."""
    folder = Path(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder} is not empty; choose another folder to export to")
        _write_features(features, folder / "features.npy")
        _write_tables(features, folder)
        about = {
            "key": features.key.fields,
            "metric": features.metric,
            "class_names": features.class_names,
            "provenance": dict(features.provenance),
        }
        (folder / "provenance.json").write_text(json.dumps(about, indent=2) + "\n")
    return folder


def export_csv(features: FeatureSet, file: str | Path) -> Path:
    """Write the row, id, label and split of every sample, without features; raises InputError if ``file`` exists.

    Labels are class indices, with a column ``class`` for their names, or for multi-label samples names separated by
    ``|``. Rows keep their order.
    """
    several = features.labels.ndim == 2
    columns: list[list[Any]] = [
        list(range(features.num_rows)),
        features.ids.tolist(),
        features.class_texts() if several else features.labels.tolist(),
        *([] if several else [features.class_texts()]),
        features.split.tolist(),
    ]
    with new_file(file) as path, path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(["row", "id", "label", *([] if several else ["class"]), "split"])
        writer.writerows(zip(*columns, strict=True))
    return Path(file)


@contextmanager
def new_file(file: str | Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``file`` on success; raises InputError if ``file`` exists."""
    file = Path(file)
    draft = file.with_name(f"{file.name}.partial")
    with storage_errors(file):
        if file.exists():
            raise InputError(f"{file} exists; choose another name to export to")
        try:
            yield draft
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)


def _write_features(features: FeatureSet, path: Path) -> None:
    """Write batch by batch, so that features larger than the memory can be exported."""
    shape = features.num_rows, features.feature_dim
    file = np.lib.format.open_memmap(path, mode="w+", dtype=features.key.dtype, shape=shape)
    for rows_B, features_BD in features.batches(BATCH_ROWS):
        file[rows_B[0] : rows_B[-1] + 1] = features_BD
    file.flush()


def _write_tables(features: FeatureSet, folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    several = features.labels.ndim == 2
    columns = {
        "row": pa.array(np.arange(features.num_rows)),
        "id": pa.array(features.ids.tolist(), type=pa.string()),
        "label": pa.array(features.labels.tolist()),
        "split": pa.array(features.split.tolist(), type=pa.string()),
    }
    if not several:
        columns["class"] = pa.array(features.class_texts(), type=pa.string())
    parquet.write_table(pa.table(columns), folder / "metadata.parquet")
    failed = {"id": list(features.failed), "reason": list(features.failed.values())}
    schema = pa.schema([("id", pa.string()), ("reason", pa.string())])
    parquet.write_table(pa.table(failed, schema=schema), folder / "failed.parquet")
