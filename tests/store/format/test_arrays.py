"""What reads an array, we or Zarr with either codec pipeline, changes nothing but speed."""

from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import zarr
from support.store_cases import SHARD_ROWS, Job, rows_path, small_job

from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import arrays, feature_rows
from penultimate.store.format.arrays import CodecPipeline, default_pipeline, open_features
from penultimate.store.format.shard_codec import ShardCodec


@pytest.fixture(params=["ours", "zarr", "zarrs"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what reads: ShardReader, or Zarr with a pipeline, as arrays of another form are read."""
    name: str = request.param
    if name != "ours":
        pytest.importorskip(name)
        monkeypatch.setattr(ShardCodec, "of", lambda metadata: None)
        monkeypatch.setattr(feature_rows, "default_pipeline", lambda: name)
    return name


def reads_by_zarr(store: FeatureStore) -> bool:
    rows = feature_rows.open_rows(store.objects, rows_path(store), shard_rows=SHARD_ROWS)
    return isinstance(rows, feature_rows.ZarrRows)


@pytest.fixture
def job() -> Job:
    return small_job()


def test_every_row_is_read_as_it_was_written(reader: str, job: Job, tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "store")
    job.write(store)
    features = store.read(job.key)
    assert reads_by_zarr(store) == (reader != "ours")
    decoded = [job.ids_M.index(id_) for id_ in features.ids.tolist()]
    np.testing.assert_array_equal(features.features, job.features_MD[decoded])
    streamed = np.concatenate([features_BD for _, features_BD in features.batches(7)])
    np.testing.assert_array_equal(streamed, job.features_MD[decoded])


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "removed"])
def test_a_damaged_shard_is_noticed(reader: str, job: Job, tmp_path: Path, damage: str) -> None:
    store = FeatureStore.create(tmp_path / "store")
    job.write(store)
    path = store.path / rows_path(store) / "features" / "c" / "1" / "0"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes({"flipped": content, "cut": content[:200]}.get(damage, b""))
    if damage == "removed":
        path.unlink()
    features = store.read(job.key)
    assert reads_by_zarr(store) == (reader != "ours")
    with pytest.raises(CorruptFeaturesError, match="rows 16 to 32"):
        list(features.batches(16))


def test_zarrs_configuration_is_left_as_it_was(job: Job, tmp_path: Path) -> None:
    before = zarr.config.get("codec_pipeline.path")
    store = FeatureStore.create(tmp_path / "store")
    job.write(store)
    array = open_features(store.objects, rows_path(store), pipeline="zarr")
    assert type(array.async_array.codec_pipeline).__name__ == "BatchedCodecPipeline"
    assert zarr.config.get("codec_pipeline.path") == before


@pytest.mark.parametrize(("spec", "expected"), [(None, "zarr"), (ModuleSpec("zarrs", None), "zarrs")])
def test_zarrs_reads_where_it_is_installed(
    spec: ModuleSpec | None, expected: CodecPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "find_spec", lambda name: spec)
    assert default_pipeline() == expected
