"""Exported files hold what the store reads, and need no penultimate."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.store_cases import FAILED, Job, half_precision_job, small_job

from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.interop.export import export_csv, export_numpy


@pytest.mark.parametrize("make_job", [small_job, half_precision_job])
def test_numpy_and_pandas_read_back_every_row(tmp_path: Path, make_job: Callable[[], Job]) -> None:
    job = make_job()
    store = FeatureStore.create(tmp_path / "store")
    job.write(store)
    features = store.read(job.key)
    folder = export_numpy(features, tmp_path / "export")
    np.testing.assert_array_equal(np.load(folder / "features.npy"), features.features, strict=True)
    table = pd.read_parquet(folder / "metadata.parquet")
    assert table["row"].tolist() == list(range(features.num_rows))
    assert table["id"].tolist() == features.ids.tolist()
    assert table["split"].tolist() == features.split.tolist()
    np.testing.assert_array_equal(np.stack(table["label"].tolist()), features.labels)
    if features.labels.ndim == 1:
        assert table["class"].tolist() == [features.class_names[label] for label in features.labels]
    failed = pd.read_parquet(folder / "failed.parquet")
    assert dict(zip(failed["id"], failed["reason"], strict=True)) == features.failed
    assert len(failed) == len(FAILED)
    about = json.loads((folder / "provenance.json").read_text())
    assert (about["key"]["backbone"], about["metric"]) == ("tiny.random", "mean_per_class")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    features = FeatureSet.of(np.zeros((2, 3), dtype=np.float32), np.array([0, 1]), ["train", "test"])
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "features.npy").touch()
    with pytest.raises(InputError, match="not empty"):
        export_numpy(features, tmp_path / "export")


def test_arrays_of_ones_own_make_a_feature_set(tmp_path: Path) -> None:
    values_ND = np.arange(12, dtype=np.float32).reshape(4, 3)
    features = FeatureSet.of(values_ND, np.array([0, 2, 1, 0]), ["train", "val", "test", "train"])
    assert features.features is values_ND or np.shares_memory(features.features, values_ND)
    assert (features.class_names, features.failed, features.ids.tolist()) == (("0", "1", "2"), {}, ["0", "1", "2", "3"])
    assert features.rows("train").tolist() == [0, 3]
    with pytest.raises(InputError, match="4 labels, 3 splits"):
        FeatureSet.of(values_ND, np.array([0, 2, 1, 0]), ["train", "val", "test"])
    np.testing.assert_array_equal(np.load(export_numpy(features, tmp_path / "x") / "features.npy"), values_ND)


@pytest.mark.parametrize("make_job", [small_job, half_precision_job])
def test_a_csv_names_every_row_in_order(tmp_path: Path, make_job: Callable[[], Job]) -> None:
    store = FeatureStore.create(tmp_path / "store")
    job = make_job()
    job.write(store)
    features = store.read(job.key)
    table = pd.read_csv(export_csv(features, tmp_path / "ids.csv"), keep_default_na=False)
    assert table["row"].tolist() == list(range(features.num_rows))
    assert table["id"].tolist() == features.ids.tolist()
    assert table["split"].tolist() == features.split.tolist()
    if features.labels.ndim == 1:
        assert table["label"].tolist() == features.labels.tolist()
        assert table["class"].tolist() == [features.class_names[label] for label in features.labels]
    else:
        names = [[features.class_names[k] for k in np.flatnonzero(row)] for row in features.labels]
        assert table["label"].tolist() == ["|".join(row) for row in names]


def test_unlabelled_rows_have_an_empty_class(tmp_path: Path) -> None:
    features = FeatureSet.of(np.zeros((2, 3), dtype=np.float32), np.array([-1, -1]), ["test", "test"])
    assert (export_csv(features, tmp_path / "ids.csv")).read_text().splitlines()[1:] == ["0,0,-1,,test", "1,1,-1,,test"]
    table = pd.read_parquet(export_numpy(features, tmp_path / "x") / "metadata.parquet")
    assert table["class"].tolist() == ["", ""]


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    features = FeatureSet.of(np.zeros((2, 3), dtype=np.float32), np.array([0, 1]), ["train", "test"])
    (tmp_path / "ids.csv").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        export_csv(features, tmp_path / "ids.csv")
    assert (tmp_path / "ids.csv").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "ids.csv"]
