"""What Zarr's users do to groups and arrays leaves a store the store it was."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from support.store_cases import FAILED, NUM_ROWS, Job, rows_path, small_job

from penultimate.store.errors import CorruptFeaturesError, NotAStoreError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.upkeep.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
"""Zarr's own warning of what users do all the same."""

DECODED = [row for row in range(NUM_ROWS) if row not in FAILED]


def rows_of(root: Path) -> str:
    """Return the path of the rows below the store."""
    return rows_path(FeatureStore(root))


def note_on_the_store(root: Path, key: str) -> None:
    zarr.open_group(root, mode="r+").attrs["note"] = {"by": "a user", "tags": [1, 2.5, None]}


def note_on_a_key(root: Path, key: str) -> None:
    zarr.open_group(root, path=key, mode="r+").attrs["note"] = "mine"


def note_on_a_key_whose_consolidated_metadata_is_lost(root: Path, key: str) -> None:
    zarr.open_group(root, path=key, mode="r+", use_consolidated=False).attrs["note"] = "mine"


def note_on_the_rows(root: Path, key: str) -> None:
    zarr.open_group(root, path=rows_of(root), mode="r+").attrs["note"] = "mine"


def array_beside_the_features(root: Path, key: str) -> None:
    zarr.open_group(root, path=rows_of(root), mode="r+").create_array("umap", data=np.zeros((50, 2)))
    zarr.consolidate_metadata(root, path=rows_of(root))


def notes_on_the_groups_between(root: Path, key: str) -> None:
    for depth in (1, 2):
        zarr.open_group(root, path="/".join(key.split("/")[:depth]), mode="r+").attrs["note"] = depth


def notes_on_arrays(root: Path, key: str) -> None:
    for name in (f"{rows_of(root)}/features", f"{key}/labels", f"{key}/ids", f"{key}/row"):
        zarr.open_array(root, path=name, mode="r+").attrs["units"] = "none"


def consolidated_store(root: Path, key: str) -> None:
    zarr.consolidate_metadata(root)


def array_beside_ours(root: Path, key: str) -> None:
    zarr.open_group(root, path=key, mode="r+").create_array("umap", data=np.zeros((50, 2)))
    zarr.consolidate_metadata(root, path=key)


def groups_and_arrays_everywhere(root: Path, key: str) -> None:
    dataset, backbone, _ = key.split("/")
    for group in ("", dataset, f"{dataset}/{backbone}"):
        opened = zarr.open_group(root, path=group, mode="r+")
        opened.create_array("grid", data=np.zeros((4, 4, 4)), chunks=(1, 1, 1))
        opened.require_group("analysis/pca/run1").create_array("axes", data=np.zeros(3))


USERS = [
    note_on_the_store,
    note_on_a_key,
    note_on_a_key_whose_consolidated_metadata_is_lost,
    note_on_the_rows,
    array_beside_the_features,
    notes_on_the_groups_between,
    notes_on_arrays,
    consolidated_store,
    array_beside_ours,
    groups_and_arrays_everywhere,
]


@pytest.fixture
def job() -> Job:
    return small_job()


@pytest.fixture
def store(tmp_path: Path, job: Job) -> FeatureStore:
    store = FeatureStore.create(tmp_path / "store")
    job.write(store)
    return store


@pytest.mark.parametrize("change", USERS)
def test_a_store_is_read_listed_verified_and_written_as_before(
    store: FeatureStore, job: Job, change: Callable[[Path, str], None]
) -> None:
    before = store.info(job.key)
    change(store.path, job.key.path)
    opened = FeatureStore(store.path)
    assert opened.keys() == [job.key]
    assert opened.incomplete() == []
    assert opened.info(job.key) == before
    assert verify(opened) == []
    np.testing.assert_array_equal(opened.read(job.key).features, job.features_MD[DECODED])
    assert opened.read(job.key).ids.tolist() == [job.ids_M[row] for row in DECODED]
    assert job.write(opened) == 0
    opened.delete(job.key)
    assert opened.keys() == []


def test_what_a_user_wrote_is_still_there_after_another_key_was_added(store: FeatureStore, job: Job) -> None:
    note_on_the_store(store.path, job.key.path)
    groups_and_arrays_everywhere(store.path, job.key.path)
    other = replace(job, embedding=replace(job.embedding, backbone="other", weights="other"))
    other.write(FeatureStore(store.path))
    root = zarr.open_group(store.path, mode="r")
    assert root.attrs["note"] == {"by": "a user", "tags": [1, 2.5, None]}
    assert np.asarray(zarr.open_array(store.path, path="analysis/pca/run1/axes")[:]).tolist() == [0, 0, 0]
    assert len(FeatureStore(store.path).keys()) == 2


def test_our_own_attribute_cannot_be_changed_unnoticed(store: FeatureStore, job: Job) -> None:
    group = zarr.open_group(store.path, path=job.key.path, mode="r+")
    ours = group.attrs["penultimate"]
    assert isinstance(ours, dict)
    group.attrs["penultimate"] = {**ours, "metric": "mean_per_klass"}
    assert [finding.object for finding in verify(store)] == ["zarr.json"]
    with pytest.raises(CorruptFeaturesError):
        store.read(job.key)
    zarr.open_group(store.path, mode="r+").attrs["penultimate"] = {"kind": "feature store", "format": 1}
    with pytest.raises(NotAStoreError):
        FeatureStore(store.path)


def test_an_array_of_another_shape_is_found_whatever_attributes_it_has(store: FeatureStore, job: Job) -> None:
    array = zarr.open_array(store.path, path=f"{job.key.path}/labels", mode="r+")
    array.attrs["units"] = "class"
    array.resize((60,))
    assert any(finding.object.startswith("labels") for finding in verify(store))
