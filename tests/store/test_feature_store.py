"""Written features come back by id and in order; an incomplete key is not visible."""

import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from numpy.typing import NDArray
from support.store_cases import FAILED, NUM_ROWS, SHARD_ROWS, Job, array_files, files, half_precision_job, small_job

from penultimate.store.errors import (
    CorruptFeaturesError,
    DecodeError,
    IncompleteFeaturesError,
    InputError,
    NotAStoreError,
    StoreError,
    UnknownNameError,
)
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.format.layout import variable_width
from penultimate.store.objects.local import LocalObjects
from penultimate.store.trials.trial_log import TrialLog
from penultimate.store.writer.feature_writer import FeatureWriter

DECODED = np.array([row for row in range(NUM_ROWS) if row not in FAILED])


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "store")


@pytest.fixture
def job() -> Job:
    return small_job()


@pytest.mark.parametrize("make_job", [small_job, half_precision_job])
def test_every_decoded_sample_comes_back_with_its_own_features_label_id_and_split(
    store: FeatureStore, make_job: Callable[[], Job]
) -> None:
    job = make_job()
    job.write(store)
    features = FeatureStore(store.path).read(job.key)
    np.testing.assert_array_equal(features.features, job.features_MD[DECODED], strict=True)
    np.testing.assert_array_equal(features.labels, job.labels_M[DECODED], strict=True)
    assert features.ids.tolist() == [job.ids_M[row] for row in DECODED]
    assert features.split.tolist() == [job.split_M[row] for row in DECODED]
    assert features.failed == {job.ids_M[row]: reason for row, reason in FAILED.items()}
    assert (features.num_rows, features.feature_dim) == (len(DECODED), job.features_MD.shape[1])
    assert (features.class_names[1], features.metric) == ("bee", "mean_per_class")
    assert features.provenance == {"weights": "random, seed 0"}


def test_the_order_in_which_rows_come_changes_nothing(store: FeatureStore, job: Job, tmp_path: Path) -> None:
    job.write(store)
    other = FeatureStore.create(tmp_path / "other")
    with job.writer(other) as writer:
        job.append(writer, np.random.default_rng(2).permutation(NUM_ROWS)[:20])
        rest = np.setdiff1d(np.arange(NUM_ROWS), np.random.default_rng(2).permutation(NUM_ROWS)[:20])
        job.append(writer, rest[::-1])
    assert array_files(other) == array_files(store)


def test_a_set_that_was_completed_is_visible_before_its_writer_is_closed(store: FeatureStore, job: Job) -> None:
    with job.writer(store) as writer:
        job.append(writer, np.arange(NUM_ROWS))
        writer.complete()
        assert (writer.key, store.keys()) == (job.key, [job.key])
        writer.complete()  # does nothing
    np.testing.assert_array_equal(store.read(job.key).features, job.features_MD[DECODED], strict=True)


def test_sets_of_several_writers_may_be_completed_at_once(store: FeatureStore, job: Job) -> None:
    jobs = [replace(job, embedding=replace(job.embedding, readout=f"stage:{number}")) for number in range(6)]
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        writers = list(pool.map(lambda each: stack.enter_context(each.writer(store)), jobs))
        for each, writer in zip(jobs, writers, strict=True):
            each.append(writer, np.arange(NUM_ROWS))
        list(pool.map(FeatureWriter.complete, writers))
    keys = store.keys()
    assert {key.digest for key in keys} == {each.key.digest for each in jobs}
    for each in jobs:
        np.testing.assert_array_equal(store.read(each.key).features, each.features_MD[DECODED], strict=True)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_shard_of_one_value_throughout_is_kept(store: FeatureStore, job: Job, value: float) -> None:
    features_MD = job.features_MD.copy()
    features_MD[SHARD_ROWS : 2 * SHARD_ROWS] = value  # the first may not be without a number
    replace(job, features_MD=features_MD).write(store)
    np.testing.assert_array_equal(store.read(job.key).features, features_MD[DECODED], strict=True)


def test_a_shard_in_which_every_image_failed_leaves_the_others(store: FeatureStore, job: Job) -> None:
    replace(job, failed=dict.fromkeys([*range(SHARD_ROWS), 49], "truncated")).write(store)
    np.testing.assert_array_equal(store.read(job.key).features, job.features_MD[SHARD_ROWS : NUM_ROWS - 1])


def test_no_image_decoded_is_an_error_and_nothing_to_see(store: FeatureStore, job: Job) -> None:
    none_decoded = replace(job, failed=dict.fromkeys(range(NUM_ROWS), "truncated"))
    for _ in range(2):  # again: nothing is left to compute, and it is still an error
        with pytest.raises(DecodeError, match="none of the 50 images"):
            none_decoded.write(store)
        assert not store.contains(job.key)


def zarr_arrays(store: FeatureStore) -> dict[str, "zarr.Array[Any]"]:
    """Return every array of a store by name; Zarr warns of anything that is not Zarr, and warnings are errors here."""
    members = dict(zarr.open_group(store.path, mode="r").members(max_depth=None))
    return {name: node for name, node in members.items() if isinstance(node, zarr.Array)}


def test_plain_zarr_and_xarray_open_a_whole_store(store: FeatureStore, job: Job) -> None:
    job.write(store)
    arrays = zarr_arrays(store)
    (rows,) = (name for name in arrays if name.endswith("/features"))
    assert set(arrays) == {rows, *(f"{job.key.path}/{name}" for name in layout.COLUMNS)}
    dataset = xarray.open_zarr(store.path / job.key.path).load()
    assert dict(dataset.sizes) == {"sample": NUM_ROWS, "word": 3}
    assert dataset["failed"].values[list(FAILED)].tolist() == list(FAILED.values())
    assert dataset["ids"].values.tolist() == job.ids_M
    np.testing.assert_array_equal(dataset["content"], job.contents_M3)
    assert dataset.attrs["penultimate"]["key"]["backbone"] == "tiny.random"
    assert xarray.open_zarr(store.path / rows.removesuffix("/features"), consolidated=False).sizes["feature"] == 8


def test_rows_of_a_set_embedded_at_once_without_failures_or_equal_samples_are_its_samples(
    store: FeatureStore, job: Job
) -> None:
    whole = replace(job, failed={})
    whole.write(store)
    arrays = zarr_arrays(store)
    (rows,) = (name for name in arrays if name.endswith("/features"))
    np.testing.assert_array_equal(arrays[rows][:], whole.features_MD)
    np.testing.assert_array_equal(arrays[f"{job.key.path}/row"][:], np.arange(NUM_ROWS))


def test_features_are_the_rows_of_the_sources_as_the_column_row_counts_them(store: FeatureStore, job: Job) -> None:
    """Whoever reads a store without penultimate finds the features by the page of the format."""
    first = replace(job, failed={})
    first.part(range(20)).write(store)
    job.part(range(10, NUM_ROWS)).write(store)  # with rows of two sources, and a sample that failed
    key = job.part(range(10, NUM_ROWS)).key
    arrays = zarr_arrays(store)
    sources = store.info(key)["sources"]
    assert len(sources) == 2
    all_rows = np.concatenate([np.asarray(arrays[f"{source['path']}/features"][:]) for source in sources])
    row_M = np.asarray(arrays[f"{key.path}/row"][:])
    assert np.flatnonzero(row_M < 0).tolist() == [49 - 10]
    np.testing.assert_array_equal(all_rows[row_M[row_M >= 0]], store.read(key).features, strict=True)


def test_an_unfinished_key_shows_nowhere_but_among_the_incomplete(store: FeatureStore, job: Job) -> None:
    with job.writer(store) as writer:
        job.append(writer, np.arange(20))
    assert store.keys() == []
    assert not store.contains(job.key)
    (found,) = store.incomplete()
    assert (found.dataset, found.embedding, found.digest) == ("insects/2024", job.embedding, job.plan().job)
    assert (found.done_rows, found.num_rows) == (SHARD_ROWS, NUM_ROWS)
    assert store.find_any(found.digest[:6]) == store.find_any(found.path) == found
    with pytest.raises(IncompleteFeaturesError, match=r"16 of 50 rows .* run `penultimate extract` again to resume"):
        store.read(job.key)
    with pytest.raises(FileNotFoundError):
        zarr.open_group(store.path / job.key.path, mode="r")
    with pytest.raises(FileNotFoundError):
        xarray.open_zarr(store.path / job.key.path, consolidated=False)


def test_resuming_misses_only_what_is_not_committed(store: FeatureStore, job: Job) -> None:
    with job.writer(store) as writer:
        job.append(writer, np.arange(SHARD_ROWS, SHARD_ROWS + 20))  # shard 1 and a part of shard 2
    with job.writer(store) as writer:
        assert writer.missing_blocks == (0, 2, 3)
        assert writer.missing_samples.tolist() == [*range(SHARD_ROWS), *range(2 * SHARD_ROWS, NUM_ROWS)]
        assert job.append(writer, writer.missing_samples) == NUM_ROWS - SHARD_ROWS
        assert writer.missing_samples.tolist() == []
        assert writer.key is None
    assert writer.key == job.key
    assert store.keys() == [job.key]
    assert store.read(job.key).failed == {job.ids_M[sample]: reason for sample, reason in FAILED.items()}
    assert not list(store.path.rglob("writer.lock"))


def test_resuming_reads_each_record_once(store: FeatureStore, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with job.writer(store) as writer:
        job.append(writer, np.arange(2 * SHARD_ROWS))
    read: list[str] = []
    get_many = LocalObjects.get_many

    def noting(objects: LocalObjects, names: Sequence[str]) -> Any:
        read.extend(name.rpartition("/")[2] for name in names)
        return get_many(objects, names)

    monkeypatch.setattr(LocalObjects, "get_many", noting)
    with job.writer(store) as writer:
        assert sorted(read) == ["0.json", "1.json"]
        assert writer.missing_blocks == (2, 3)


def test_an_extraction_that_is_complete_needs_nothing_when_it_is_run_again_and_leaves_nothing(
    store: FeatureStore, job: Job
) -> None:
    job.write(store)
    before = files(store)
    with job.writer(store) as writer:
        assert writer.offer(np.arange(NUM_ROWS), job.contents_M3).sum() == 0
        assert writer.missing_samples.tolist() == []
    assert writer.key == job.key
    assert store.incomplete() == []
    assert files(store) == before


def test_a_moved_store_still_opens(store: FeatureStore, job: Job, tmp_path: Path) -> None:
    job.write(store)
    moved = FeatureStore(shutil.move(store.path, tmp_path / "elsewhere"))
    assert moved.keys() == [job.key]
    np.testing.assert_array_equal(moved.read(job.key).features, job.features_MD[DECODED])


def test_a_group_under_another_keys_name_is_refused(store: FeatureStore, job: Job) -> None:
    job.write(store)
    stranger = replace(job.key, preprocess="another")
    shutil.copytree(store.path / job.key.path, store.path / stranger.path)
    with pytest.raises(CorruptFeaturesError, match=job.key.digest):
        store.read(stranger)
    with pytest.raises(CorruptFeaturesError, match="move it back"):
        store.keys()


@pytest.mark.parametrize("change", ["weights", "preprocess", "decoder", "precision", "dtype", "readout"])
def test_features_of_another_embedding_are_never_reused(store: FeatureStore, job: Job, change: str) -> None:
    job.write(store)
    changed = {change: "float16" if change == "dtype" else "another"}
    other = replace(
        job, embedding=replace(job.embedding, **changed), features_MD=job.features_MD.astype(changed.get("dtype", "f4"))
    )
    assert not store.contains(other.key)
    with pytest.raises(UnknownNameError, match=job.key.digest):
        store.read(other.key)
    assert other.write(store) == NUM_ROWS
    assert set(store.keys()) == {job.key, other.key}


def test_features_of_other_images_are_never_reused(store: FeatureStore, job: Job) -> None:
    job.write(store)
    contents_M3 = job.contents_M3.copy()
    contents_M3[20:25, 2] += np.uint64(1)
    other = replace(job, contents_M3=contents_M3, features_MD=job.features_MD + 1)
    assert not store.contains(other.key)
    assert other.write(store) == 5
    expected = job.features_MD.copy()
    expected[20:25] += 1
    np.testing.assert_array_equal(store.read(other.key).features, expected[DECODED])
    np.testing.assert_array_equal(store.read(job.key).features, job.features_MD[DECODED])


def test_paths_that_hold_no_store_are_said_to_hold_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.jpg").touch()
    (tmp_path / "file").touch()
    zarr.create_group(tmp_path / "zarr")
    with pytest.raises(NotAStoreError, match="there is no feature store"):
        FeatureStore(tmp_path / "nothing")
    for call in (FeatureStore, FeatureStore.create, FeatureStore.check_location):
        for name in ("folder", "file", "zarr"):
            with pytest.raises(NotAStoreError) as caught:
                call(tmp_path / name)
            expected = f"{tmp_path / name} is not empty and no feature store; choose a new or empty folder"
            assert str(caught.value) == expected
    for call in (FeatureStore.create, FeatureStore.check_location):
        with pytest.raises(InputError, match="there is no folder"):
            call(tmp_path / "no" / "parent")
    with pytest.raises(InputError, match="expected a folder or an address such as s3://bucket/prefix"):
        FeatureStore("ftp://bucket/store")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("opened", [FeatureStore, TrialLog])
def test_many_may_create_one_at_a_time_whatever_another_has_done_of_it(
    opened: type[FeatureStore | TrialLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process ends or is killed at each step of making it; whoever comes then must find or make it."""
    location = tmp_path / "location"
    is_vacant = LocalObjects.is_vacant

    def made_meanwhile(self: LocalObjects) -> bool:
        monkeypatch.setattr(LocalObjects, "is_vacant", is_vacant)
        opened.create(location)
        return self.is_vacant()

    with monkeypatch.context() as killed:  # before the first file has its name
        killed.setattr(Path, "replace", raise_interrupt)
        killed.setattr(Path, "touch", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            opened.create(location)
    with pytest.raises(NotAStoreError, match="there is no"):
        opened(location)
    monkeypatch.setattr(LocalObjects, "is_vacant", made_meanwhile)
    opened(location)  # which is there at the second look
    assert LocalObjects.is_vacant is is_vacant


def raise_interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_location_is_checked_without_making_anything(tmp_path: Path, store: FeatureStore) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        FeatureStore.check_location(tmp_path / name)
    FeatureStore.check_location(store.path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "store"]
    assert not any((tmp_path / "empty").iterdir())


def test_a_damaged_head_of_a_store_is_not_taken_for_something_else(store: FeatureStore) -> None:
    head = store.path / "zarr.json"
    head.write_bytes(head.read_bytes().replace(b'"format": 2', b'"format": 3'))
    with pytest.raises(NotAStoreError, match=r"zarr\.json is not the feature store that was written: a byte was"):
        FeatureStore.create(store.path)


@pytest.mark.skipif(sys.platform != "linux", reason="/sys refuses new folders on Linux, even to root")
def test_a_location_where_nothing_may_be_written_is_wrong_input() -> None:
    with pytest.raises(InputError, match="/sys/store cannot be used"):
        FeatureStore.create("/sys/store")


def test_what_cannot_belong_to_the_plan_is_refused_and_nothing_of_it_taken(store: FeatureStore, job: Job) -> None:
    good = job.features_MD
    with job.writer(store) as writer:
        job.append(writer, np.arange(2))
        for samples, features, failed, problem in (
            ([2, 3], good[:2, :5], {}, r"expected features of shape \(2, 8\)"),
            ([2, 3], good[:2].astype(np.float64), {}, "dtype float32, got .* float64"),
            ([2, 3], good[:3], {}, "expected features of shape"),
            ([2, 2], good[:2], {}, r"samples \[2\] came more than once"),
            ([2], good[:1], {2: "torn"}, "more than once"),
            ([2, 1], good[:2], {}, r"samples \[1\] were not missing"),
            ([2, NUM_ROWS], good[:2], {}, r"samples \[50\] were not missing"),
            ([2, -1], good[:2], {}, "were not missing"),
            ([2], good[:1], {3: ""}, "needs a reason"),
        ):
            with pytest.raises(InputError, match=problem):
                writer.append(samples, features, failed)
        job.append(writer, np.arange(2, NUM_ROWS))
    assert store.contains(job.key)
    np.testing.assert_array_equal(store.read(job.key).features, good[DECODED])


def test_features_that_are_not_finite_are_kept_and_counted(store: FeatureStore, job: Job) -> None:
    features_MD = job.features_MD.copy()
    features_MD[7, 0], features_MD[8, 1:3] = np.inf, np.nan
    replace(job, features_MD=features_MD).write(store)
    assert (store.info(job.key)["num_not_finite"], store.info(job.key)["num_failed"]) == (2, len(FAILED))
    np.testing.assert_array_equal(store.read(job.key).features, features_MD[DECODED])


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("feature_dim", 9, "feature_dim 8 and now has 9"),
        ("shard_rows", 8, "shard_rows 16 and now has 8"),
        ("metric", "top1", "metric 'mean_per_class' and now has 'top1'"),
    ],
)
def test_resuming_with_another_plan_says_what_differs(
    store: FeatureStore, job: Job, option: str, value: Any, says: str
) -> None:
    with job.writer(store) as writer:
        job.append(writer, np.arange(20))
    with pytest.raises(InputError, match=says):
        job.writer(store, **{option: value})
    job.write(store)
    assert store.contains(job.key)


def test_an_extraction_of_other_ids_is_another_one_and_takes_what_is_committed(store: FeatureStore, job: Job) -> None:
    with job.writer(store) as writer:
        job.append(writer, np.arange(20))
    other = replace(job, ids_M=[f"other/{row}" for row in range(NUM_ROWS)])
    assert other.write(store) == NUM_ROWS - SHARD_ROWS
    assert [found.digest for found in store.incomplete()] == [job.plan().job]
    assert job.write(store) == 0
    assert set(store.keys()) == {job.key, other.key}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("ids_M", variable_width(["same.jpg"] * NUM_ROWS), "ids must be unique, got 49 repeated"),
        ("labels_M", np.zeros(NUM_ROWS - 1, dtype=np.int64), r"got \(50, 49, 50\)"),
        ("labels_M", np.zeros(NUM_ROWS), r"labels \(M,\) int64 or \(M, K\) uint8, got \(50,\) float64"),
        ("shard_rows", 300, "shard_rows must be a multiple of 64 or less, got 300"),
        ("blocks", range(2, 5), "range of blocks within 0 to 4"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_written(
    store: FeatureStore, job: Job, option: str, value: Any, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        job.writer(store, **{option: value})
    assert [path.name for path in store.path.iterdir()] == ["zarr.json"]


def test_two_writers_of_disjoint_blocks_make_the_set_of_one(store: FeatureStore, job: Job, tmp_path: Path) -> None:
    with job.writer(store, blocks=range(2)) as first, job.writer(store, blocks=range(2, 4)) as second:
        job.append(second, second.missing_samples)
        job.append(first, first.missing_samples)
    whole = FeatureStore.create(tmp_path / "whole")
    job.write(whole)
    assert array_files(store) == array_files(whole)
    assert store.info(job.key)["checksums"] == whole.info(job.key)["checksums"]


def test_an_exception_lets_go_of_the_blocks_and_keeps_what_is_committed(store: FeatureStore, job: Job) -> None:
    def interrupted() -> None:
        with job.writer(store) as writer:
            job.append(writer, np.arange(20))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with job.writer(store) as writer:
        assert writer.missing_blocks == (1, 2, 3)


def test_a_deleted_key_is_gone_and_can_be_written_again(store: FeatureStore, job: Job) -> None:
    job.write(store)
    there = sum(len(content) for content in files(store).values())
    removed = store.delete(job.key)
    assert store.keys() == []
    left = {name: content for name, content in files(store).items() if name != "zarr.json"}
    assert set(left) == {"insects%2F2024/zarr.json", "insects%2F2024/tiny.random/zarr.json"}
    assert (removed.freed_bytes, removed.shared_bytes) == (there - sum(map(len, files(store).values())), 0)
    with pytest.raises(UnknownNameError):
        store.delete(job.key)
    job.write(store)
    assert store.keys() == [job.key]


def test_a_key_is_found_by_the_start_of_its_digest_or_path(store: FeatureStore, job: Job) -> None:
    job.write(store)
    half_precision_job().write(store)
    assert store.find(job.key.digest[:6]) == job.key
    assert store.find(job.key.path) == job.key
    for name in ("", "insects", "nothing"):
        with pytest.raises(UnknownNameError):
            store.find(name)


@pytest.mark.parametrize("num_rows", [1, 5, SHARD_ROWS, 40, 1000])
def test_batches_stream_every_row_once_and_no_more_than_asked(store: FeatureStore, job: Job, num_rows: int) -> None:
    job.write(store)
    features = store.read(job.key)
    batches = list(features.batches(num_rows))
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in batches]), np.arange(features.num_rows))
    np.testing.assert_array_equal(np.concatenate([values for _, values in batches]), features.features)
    assert max(len(rows) for rows, _ in batches) <= num_rows
    train = features.rows("train", "val")
    chosen = list(features.batches(num_rows, rows=train))
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in chosen]), train)
    np.testing.assert_array_equal(np.concatenate([values for _, values in chosen]), features.features[train])


def test_batches_read_each_shard_once_and_only_shards_with_wanted_rows(store: FeatureStore, job: Job) -> None:
    job.write(store)
    features = store.read(job.key)
    read: list[slice | NDArray[np.int64]] = []

    class Counting:
        shape = features.array.shape

        def __getitem__(self, rows: slice | NDArray[np.int64], /) -> object:
            read.append(rows)
            return features.array[rows]

    counted = replace(features, array=Counting())
    wanted = np.flatnonzero(DECODED >= 2 * SHARD_ROWS)
    assert sum(len(rows) for rows, _ in counted.batches(3, rows=wanted)) == len(wanted)
    assert read == [slice(2 * SHARD_ROWS, 3 * SHARD_ROWS), slice(3 * SHARD_ROWS, 4 * SHARD_ROWS)]


def test_rows_come_in_any_order_and_as_often_as_they_are_asked_for(store: FeatureStore, job: Job) -> None:
    job.write(store)
    features = store.read(job.key)
    rows_B = np.random.default_rng(0).integers(0, features.num_rows, 200)
    np.testing.assert_array_equal(features.rows_at(rows_B), job.features_MD[DECODED][rows_B])
    assert features.rows_at(rows_B[:0]).shape == (0, features.feature_dim)


def test_of_a_shard_in_a_folder_only_what_is_near_the_wanted_rows_is_read(tmp_path: Path) -> None:
    """A damaged chunk is noticed by whoever asks for a row of it, and by nobody else."""
    rng, num_rows = np.random.default_rng(0), 1024
    job = replace(
        small_job(),
        features_MD=rng.normal(size=(num_rows, 8)).astype(np.float32),
        labels_M=rng.integers(0, 5, num_rows),
        ids_M=[f"{row:04d}" for row in range(num_rows)],
        split_M=["train"] * num_rows,
        contents_M3=rng.integers(1, 2**63, (num_rows, 3)).astype(np.uint64),
        failed={},
    )
    store = FeatureStore.create(tmp_path / "store")
    job.write(store, shard_rows=num_rows)
    (shard,) = store.path.rglob("features/c/0/0")
    content = bytearray(shard.read_bytes())
    content[500 * 8 * 4] ^= 1  # about row 500
    shard.write_bytes(content)
    features = store.read(job.plan(shard_rows=num_rows).key(job.contents_M3))
    rows_B = np.array([1000, 3, 2, 3, 250, 1000])
    np.testing.assert_array_equal(features.rows_at(rows_B), job.features_MD[rows_B])
    with pytest.raises(CorruptFeaturesError, match="CRC-32C"):
        features.rows_at(np.array([3, 500]))


def test_a_full_disk_is_one_line_and_the_key_resumable(store: FeatureStore, job: Job) -> None:
    """A limit on file size simulates a full disk: the kernel refuses the write of the first shard."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = job.writer(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        job.append(writer, np.arange(20))
        with pytest.raises(StoreError, match="free some space and run again to resume") as caught:
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    job.write(store)
    np.testing.assert_array_equal(store.read(job.key).features, job.features_MD[DECODED])


def test_a_first_shard_without_one_finite_row_is_refused_and_nothing_is_committed(
    store: FeatureStore, job: Job
) -> None:
    features_MD = np.full_like(job.features_MD, np.nan)
    with pytest.raises(InputError, match=r"all of the first 15 features are NaN or infinite.*network itself"):
        replace(job, features_MD=features_MD).write(store)
    assert store.incomplete() == []
    job.write(store)  # other weights would have another key; the same rows, finite, go where those would have gone
    assert store.contains(job.key)


def test_the_content_of_every_decoded_sample_is_read_with_it(store: FeatureStore, job: Job) -> None:
    job.write(store)
    decoded = np.setdiff1d(np.arange(NUM_ROWS), list(FAILED))
    assert (store.read(job.key).contents == job.contents_M3[decoded]).all()
