"""What an interrupted writer committed is read again before it is resumed, and a damaged shard is never carried on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.store_cases import SHARD_ROWS, Job, rows_path, small_job

from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.layout import shard_object
from penultimate.store.upkeep.verify import verify


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "store")


@pytest.fixture
def job() -> Job:
    return small_job()


def interrupt(store: FeatureStore, job: Job, *, after: int) -> None:
    """Write the first samples, and leave the extraction to be resumed."""
    writer = job.writer(store)
    job.append(writer, np.arange(after))
    writer.close()
    assert writer.key is None


def damage(store: FeatureStore, shard: int) -> None:
    path = store.path / rows_path(store) / shard_object(shard)
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def resume(store: FeatureStore, job: Job) -> tuple[int, list[str]]:
    """Write what is missing; returns how many samples were needed, and the warnings."""
    said: list[str] = []
    with store.writer(job.plan(), provenance={}, log=said.append) as writer:
        num_needed = job.append(writer, writer.missing_samples)
    return num_needed, said


def check(store: FeatureStore, job: Job) -> None:
    features = store.read(job.key)
    decoded = np.setdiff1d(np.arange(len(job.ids_M)), list(job.failed))
    np.testing.assert_array_equal(features.features, job.features_MD[decoded])
    assert verify(store) == []


def test_whole_shards_are_kept_and_nothing_is_said(store: FeatureStore, job: Job) -> None:
    interrupt(store, job, after=2 * SHARD_ROWS)
    assert resume(store, job) == (len(job.ids_M) - 2 * SHARD_ROWS, [])
    check(store, job)


def test_a_damaged_shard_is_embedded_again_and_that_is_said(store: FeatureStore, job: Job) -> None:
    interrupt(store, job, after=2 * SHARD_ROWS)
    damage(store, 1)
    num_needed, said = resume(store, job)
    assert num_needed == len(job.ids_M) - SHARD_ROWS
    assert len(said) == 1
    assert "1 blocks of an interrupted run are damaged and are embedded anew" in said[0]
    check(store, job)


def test_a_lost_shard_is_embedded_again(store: FeatureStore, job: Job) -> None:
    interrupt(store, job, after=2 * SHARD_ROWS)
    (store.path / rows_path(store) / shard_object(0)).unlink()
    assert resume(store, job)[0] == len(job.ids_M) - SHARD_ROWS
    check(store, job)


def test_blocks_with_samples_equal_to_those_of_a_damaged_shard_go_with_it(store: FeatureStore, job: Job) -> None:
    contents_M3, features_MD = job.contents_M3.copy(), job.features_MD.copy()
    contents_M3[SHARD_ROWS + 2], features_MD[SHARD_ROWS + 2] = contents_M3[1], features_MD[1]
    job = replace(job, contents_M3=contents_M3, features_MD=features_MD)
    interrupt(store, job, after=3 * SHARD_ROWS)
    damage(store, 0)
    num_needed, said = resume(store, job)
    assert num_needed == len(job.ids_M) - SHARD_ROWS - 1  # the equal one is embedded once
    assert "2 blocks" in said[0]
    check(store, job)


def test_a_damaged_shard_that_a_set_refers_to_stops_the_run(store: FeatureStore, job: Job) -> None:
    """Written anew, other samples might have the rows: the set must not get the features of other images."""
    interrupt(store, job, after=2 * SHARD_ROWS)
    other = job.part(range(4, 12))
    assert other.write(store) == 0
    damage(store, 0)
    with pytest.raises(CorruptFeaturesError, match="others refer to these rows"):
        resume(store, job)
    store.delete(other.key)
    assert resume(store, job)[0] == len(job.ids_M) - SHARD_ROWS
    check(store, job)
