"""Removing a set frees what nothing else needs, and nothing that somebody does."""

import itertools
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.dying_objects import DyingObjects, Killed
from support.store_cases import NUM_ROWS, SHARD_ROWS, Job, array_files, files, small_job

from penultimate.engine.extract.upgrade import contents_by_id
from penultimate.engine.images.load import load_images
from penultimate.store.errors import StoreBusyError, UnknownNameError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.upkeep import upgrade
from penultimate.store.upkeep.verify import verify


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "store")


@pytest.fixture
def job() -> Job:
    return small_job()


def size(store: FeatureStore) -> int:
    """Return the bytes of all files but the groups, which stay when they are empty."""
    return sum(len(content) for name, content in files(store).items() if name.count("/") > 2)


def shards(store: FeatureStore) -> list[str]:
    return sorted(name.partition("/features/c/")[2] for name in files(store) if "/features/c/" in name)


def check(store: FeatureStore, job: Job) -> None:
    decoded = [sample for sample in range(len(job.ids_M)) if sample not in job.failed]
    np.testing.assert_array_equal(FeatureStore(store.path).read(job.key).features, job.features_MD[decoded])
    assert verify(store) == []


def test_only_shards_to_which_no_set_refers_are_freed_and_their_bytes_are_told(store: FeatureStore, job: Job) -> None:
    job.write(store)
    part = replace(job.part(range(SHARD_ROWS + 2, 2 * SHARD_ROWS)), split_M=["test"] * 14)
    part.write(store)
    assert shards(store) == ["0/0", "1/0", "2/0", "3/0"]
    before = size(store)
    removed = store.delete(job.key)
    assert shards(store) == ["1/0"]
    assert removed.freed_bytes == before - size(store)
    assert (removed.shared_bytes, removed.kept) == (sum(len(c) for n, c in files(store).items() if "/c/1/0" in n), ())
    check(store, part)
    before = size(store)
    removed = store.delete(part.key)
    assert (removed.freed_bytes, removed.shared_bytes) == (before, 0)
    assert size(store) == 0
    assert list(store.catalog.rows_folders()) == []


def test_a_set_without_rows_of_its_own_takes_only_its_columns_with_it(store: FeatureStore, job: Job) -> None:
    job.write(store)
    before = files(store)
    part = job.part(range(20))
    part.write(store)
    with_part = size(store)
    removed = store.delete(part.key)
    assert files(store) == before
    assert removed.freed_bytes == with_part - size(store)
    assert removed.shared_bytes > 0
    check(store, job)


def test_rows_are_embedded_again_once_they_were_freed(store: FeatureStore, job: Job) -> None:
    job.write(store)
    part = job.part(range(SHARD_ROWS))
    part.write(store)
    store.delete(job.key)
    assert job.write(store) == NUM_ROWS - SHARD_ROWS
    check(store, job)
    check(store, part)


def test_rows_to_which_an_unfinished_extraction_refers_stay(store: FeatureStore, job: Job) -> None:
    base = job.part(range(40))
    base.write(store)
    with job.writer(store) as writer:
        job.append(writer, np.arange(2 * SHARD_ROWS))
    (begun,) = store.incomplete()
    assert begun.done_rows == 2 * SHARD_ROWS
    removed = store.delete(base.key)
    assert shards(store) == ["0/0", "1/0"]
    assert removed.kept == ()
    assert job.write(store) == NUM_ROWS - 2 * SHARD_ROWS
    check(store, job)
    store.delete(job.key)
    assert size(store) == 0


def test_rows_of_an_unfinished_extraction_to_which_a_set_refers_stay(store: FeatureStore, job: Job) -> None:
    with job.writer(store) as writer:
        job.append(writer, np.arange(2 * SHARD_ROWS))
    part = job.part(range(SHARD_ROWS, 2 * SHARD_ROWS))
    assert part.write(store) == 0
    (begun,) = store.incomplete()
    removed = store.delete(begun)
    assert store.incomplete() == []
    assert shards(store) == ["1/0"]
    assert removed.freed_bytes > 0
    assert removed.shared_bytes > 0
    check(store, part)
    assert job.write(store) == NUM_ROWS - SHARD_ROWS
    check(store, job)


def test_what_a_writer_refers_to_is_left_alone_until_it_has_ended(store: FeatureStore, job: Job) -> None:
    base = job.part(range(40))
    base.write(store)
    before = shards(store)
    grown = replace(job, split_M=["train"] * NUM_ROWS)
    with grown.writer(store) as writer:
        grown.append(writer, writer.missing_samples[:20])
        removed = store.delete(base.key)
        assert store.keys() == []
        assert shards(store) == before
        assert len(removed.kept) == 1
        assert "is being written by process" in removed.kept[0]
        (begun,) = store.incomplete()
        with pytest.raises(StoreBusyError):
            store.delete(begun)
        assert grown.append(writer, writer.missing_samples) == NUM_ROWS - 40
    check(store, grown)
    assert store.incomplete() == []
    store.delete(grown.key)
    assert size(store) == 0


def test_what_was_left_alone_is_freed_by_the_next_removal(store: FeatureStore, job: Job) -> None:
    base, other = job.part(range(40)), replace(job.part([1, 2]), split_M=["test"] * 2)
    base.write(store)
    with other.writer(store):  # which ends before anything was offered, and so needs none of it
        assert store.delete(base.key).kept
    assert shards(store)
    replace(job.part([45]), split_M=["val"]).write(store)
    removed = store.delete(store.keys()[0])
    assert (removed.kept, size(store)) == ((), 0)


def test_rows_that_are_in_use_hold_up_no_others(store: FeatureStore, job: Job) -> None:
    other = replace(job, embedding=replace(job.embedding, backbone="zzz", weights="other"))
    job.write(store)
    other.write(store)
    grown = replace(job, split_M=["train"] * NUM_ROWS)
    with grown.writer(store) as writer:
        assert len(store.delete(job.key).kept) == 1
        removed = store.delete(other.key)
        assert len(removed.kept) == 1
        assert [name for name in files(store) if "/zzz/" in name] == ["insects%2F2024/zzz/zarr.json"]
        grown.append(writer, writer.missing_samples)
    check(store, grown)


def test_a_damaged_set_keeps_all_rows_until_it_is_removed_itself(store: FeatureStore, job: Job) -> None:
    job.write(store)
    part = job.part(range(20))
    part.write(store)
    group = store.path / part.key.path / "zarr.json"
    group.write_bytes(b"{}")
    removed = store.delete(job.key)
    assert shards(store) == ["0/0", "1/0", "2/0", "3/0"]
    assert part.key.path in removed.kept[0]
    store.delete(store.find_any(part.key.digest))
    assert size(store) == 0


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["before", "after"])
def test_dying_at_each_change_of_a_removal_leaves_a_readable_store_and_nothing_for_ever(
    job: Job, tmp_path: Path, after: bool
) -> None:
    part = replace(job.part(range(SHARD_ROWS, 2 * SHARD_ROWS)), split_M=["test"] * SHARD_ROWS)
    for at in itertools.count():
        store = FeatureStore.create(tmp_path / str(at))
        job.write(store)
        part.write(store)
        store.objects = DyingObjects(store.path, at=at, after=after)
        try:
            store.delete(job.key)
            died = False
        except Killed:
            died = True
        survivor = FeatureStore(store.path)
        check(survivor, part)
        if job.key in survivor.keys():  # noqa: SIM118  (a method of ours)
            check(survivor, job)
            survivor.delete(job.key)
        with suppress(UnknownNameError):  # of what is half removed; else the next removal frees what is left
            survivor.delete(survivor.find_any(job.key.digest))
        for begun in survivor.incomplete():
            survivor.delete(begun)
        check(survivor, part)
        survivor.delete(part.key)
        assert size(survivor) == 0, f"died at change {at}"
        job.write(survivor)
        check(survivor, job)
        if not died:
            break
    assert at >= 5  # the group, the columns, three shards and their records


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["before", "after"])
def test_dying_while_the_last_set_is_removed_never_leaves_one_that_looks_complete(
    job: Job, tmp_path: Path, after: bool
) -> None:
    whole = FeatureStore.create(tmp_path / "whole")
    job.write(whole)
    for at in itertools.count():
        store = FeatureStore.create(tmp_path / str(at))
        job.write(store)
        store.objects = DyingObjects(store.path, at=at, after=after)
        try:
            store.delete(job.key)
            break
        except Killed:
            survivor = FeatureStore(store.path)
            if at or after:
                assert survivor.keys() == []
            assert verify(survivor) == []
            job.write(survivor)
            check(survivor, job)
            columns = {name: content for name, content in array_files(whole).items() if "/rows-" not in name}
            assert {name: array_files(survivor)[name] for name in columns if "/row/" not in name} == {
                name: content for name, content in columns.items() if "/row/" not in name
            }
    assert at >= 5


def test_nothing_is_freed_while_it_cannot_be_told_what_a_set_refers_to(store: FeatureStore, job: Job) -> None:
    """A lost chunk of ``row`` reads as rows 0, which would free all other shards."""
    job.write(store)
    part = replace(job.part(range(SHARD_ROWS + 2, 2 * SHARD_ROWS)), split_M=["test"] * 14)
    part.write(store)
    (store.path / part.key.path / "row" / "c" / "0").unlink()
    removed = store.delete(job.key)
    assert shards(store) == ["0/0", "1/0", "2/0", "3/0"]
    assert len(removed.kept) == 1
    assert "row" in removed.kept[0]
    store.delete(part.key)
    assert shards(store) == []


def test_an_upgraded_key_leaves_no_column_behind(tmp_path: Path) -> None:
    work = shutil.copytree(Path(__file__).parents[1] / "data" / "format1", tmp_path / "format1")
    store = FeatureStore(work / "features.zarr")
    key = next(key for key in store.keys() if key.dataset == "images")  # noqa: SIM118  (a method of ours)
    images = load_images(work / "images")
    images.contents.complete(images.source)
    ids_M = upgrade.ids_of(store.objects, key.path)
    assert upgrade.upgrade(store.objects, key.path, contents_by_id(images, ids_M))
    assert store.info(key)["format"] == 2
    features_ND = store.read(key).features
    assert features_ND.shape == (24, 1024)
    assert verify(store) == []
    store.delete(key)
    assert not (store.path / key.path).exists()
