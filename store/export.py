"""Export: a FeatureSet as plain files, in the layout clip-retrieval made common.

<folder>/features.npy        (N, D), as stored
<folder>/metadata.parquet    a row a row of features: row, id, label (an index, or a list of 0/1), class, split
<folder>/failed.parquet      id, reason: the samples that have no row
<folder>/provenance.json     the key, the metric, the class names and how the features came about
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.objects import storage_errors

BATCH_ROWS = 16_384
"""Rows held in memory at once: 80 MiB at D = 1,280 in float32."""


def export_numpy(features: FeatureSet, folder: str | Path) -> Path:
    """Write ``features`` into ``folder``, which must not exist or be empty (InputError); returns the folder."""
    folder = Path(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder} is not empty; choose another folder to export to")
        _write_features(features, folder / "features.npy")
        _write_tables(features, folder)
        about = {
            "key": asdict(features.key),
            "metric": features.metric,
            "class_names": features.class_names,
            "provenance": dict(features.provenance),
        }
        (folder / "provenance.json").write_text(json.dumps(about, indent=2) + "\n")
    return folder


def _write_features(features: FeatureSet, path: Path) -> None:
    """A batch at a time, so that features larger than the memory can be exported."""
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
        names = [features.class_names[label] for label in features.labels.tolist()]
        columns["class"] = pa.array(names, type=pa.string())
    parquet.write_table(pa.table(columns), folder / "metadata.parquet")
    failed = {"id": list(features.failed), "reason": list(features.failed.values())}
    schema = pa.schema([("id", pa.string()), ("reason", pa.string())])
    parquet.write_table(pa.table(failed, schema=schema), folder / "failed.parquet")
