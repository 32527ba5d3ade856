"""Tensors and GPU arrays hold the values of the store, without needless copies."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.store_cases import FAILED, Job, small_job

from penultimate.engine.torch_features import export_torch, torch_batches
from penultimate.store.errors import InputError, UnavailableError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.interop.cupy_batches import cupy_batches


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    job: Job = small_job()
    store = FeatureStore.create(tmp_path / "store")
    job.write(store)
    return store.read(job.key)


def test_batches_are_the_rows_of_the_store(features: FeatureSet) -> None:
    for rows in (None, features.rows("val")):
        batches = list(torch_batches(features, 7, rows=rows))
        wanted = np.arange(features.num_rows) if rows is None else rows
        np.testing.assert_array_equal(np.concatenate([rows_B for rows_B, _ in batches]), wanted)
        np.testing.assert_array_equal(torch.cat([batch for _, batch in batches]).numpy(), features.features[wanted])


def test_on_the_cpu_a_batch_is_the_memory_that_was_read() -> None:
    values_ND = np.arange(40, dtype=np.float32).reshape(20, 2)
    features = FeatureSet.of(values_ND, np.zeros(20, np.int64), ["train"] * 20)
    for rows_B, batch_BD in torch_batches(features, 6):
        assert batch_BD.data_ptr() == values_ND[rows_B[0]].ctypes.data
    for _, batch_BD in torch_batches(features, 6):
        assert np.shares_memory(np.from_dlpack(batch_BD), values_ND)


def test_torch_loads_the_export_without_running_code_of_it(features: FeatureSet, tmp_path: Path) -> None:
    content = torch.load(export_torch(features, tmp_path / "features.pt"), weights_only=True)
    np.testing.assert_array_equal(content["features"].numpy(), features.features)
    np.testing.assert_array_equal(content["labels"].numpy(), features.labels)
    assert content["ids"] == features.ids.tolist()
    assert content["split"] == features.split.tolist()
    assert content["class_names"] == list(features.class_names)
    assert list(content["failed"].values()) == list(FAILED.values())
    assert content["key"]["backbone"] == "tiny.random"
    with pytest.raises(InputError, match="exists"):
        export_torch(features, tmp_path / "features.pt")


def test_cupy_batches_say_what_is_missing(features: FeatureSet) -> None:
    if torch.cuda.is_available():
        pytest.skip("CuPy may work here")
    with pytest.raises(UnavailableError, match="CuPy batches need"):
        cupy_batches(features, 7)


@pytest.mark.gpu
def test_cupy_and_torch_batches_on_the_gpu_are_the_rows_of_the_store(features: FeatureSet) -> None:
    cupy = pytest.importorskip("cupy")
    for (rows_B, of_cupy), (_, of_torch) in zip(
        cupy_batches(features, 7), torch_batches(features, 7, device="cuda"), strict=True
    ):
        np.testing.assert_array_equal(cupy.asnumpy(of_cupy), features.features[rows_B])
        np.testing.assert_array_equal(of_torch.cpu().numpy(), features.features[rows_B])
