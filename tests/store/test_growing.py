"""What was embedded once is carried over to every later set that has the same pixels, and nothing else is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.store_cases import FAILED, NUM_ROWS, SHARD_ROWS, Job, files, half_precision_job, rows_path, small_job

from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.format.contents import UNREADABLE, content_of
from penultimate.store.key import FeatureKey
from penultimate.store.upkeep.sharing import shared_rows, sources_of
from penultimate.store.upkeep.verify import verify


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "store")


@pytest.fixture
def job() -> Job:
    return small_job()


def embedded_otherwise(job: Job) -> Job:
    """Return the job with other features of the same images, which tell what was carried over from what was not."""
    return replace(job, features_MD=job.features_MD + np.ones(1, job.features_MD.dtype))


def check(store: FeatureStore, job: Job, carried: Job, *, dataset: str = "insects/2024") -> FeatureKey:
    """Fail unless a set is that of ``job``, with the features of ``carried`` for contents that this has."""
    key = job.plan(dataset=dataset).key(job.contents_M3)
    features = FeatureStore(store.path).read(key)
    old = dict(zip(map(tuple, carried.contents_M3.tolist()), carried.features_MD, strict=True))
    decoded = [sample for sample in range(len(job.ids_M)) if sample not in job.failed]
    expected = [old.get(tuple(job.contents_M3[sample].tolist()), job.features_MD[sample]) for sample in decoded]
    np.testing.assert_array_equal(features.features, np.stack(expected), strict=True)
    np.testing.assert_array_equal(np.concatenate([part for _, part in features.batches(7)]), np.stack(expected))
    np.testing.assert_array_equal(features.labels, job.labels_M[decoded], strict=True)
    assert features.ids.tolist() == [job.ids_M[sample] for sample in decoded]
    assert features.split.tolist() == [job.split_M[sample] for sample in decoded]
    assert features.failed == {job.ids_M[sample]: reason for sample, reason in job.failed.items()}
    return key


def renamed(job: Job) -> Job:
    return replace(job, ids_M=[f"elsewhere/{number}.jpg" for number in range(len(job.ids_M))])


def split_anew(job: Job) -> Job:
    return replace(job, split_M=job.split_M[1:] + job.split_M[:1])


def labelled_anew(job: Job) -> Job:
    """Labels are folders, so that other labels are other ids, in another order."""
    labels_M = (job.labels_M + 1) % 5
    order = np.argsort(labels_M, kind="stable")
    moved = replace(job, labels_M=labels_M).part(order)
    return replace(moved, ids_M=[f"{label}/{id_}" for label, id_ in zip(moved.labels_M, moved.ids_M, strict=True)])


def with_twins(job: Job) -> Job:
    """Samples 20 to 24 have the pixels of 0 to 4, of which one fails, and of the last shard two are equal."""
    contents_M3, features_MD = job.contents_M3.copy(), job.features_MD.copy()
    for twin, first in (*((20 + number, number) for number in range(5)), (48, 47)):
        contents_M3[twin], features_MD[twin] = contents_M3[first], features_MD[first]
    return replace(job, contents_M3=contents_M3, features_MD=features_MD, failed=FAILED | {23: FAILED[3]})


CHANGES: dict[str, tuple[Callable[[Job], Job], Callable[[Job], Job], int]] = {
    "nothing": (lambda job: job, lambda job: job, 0),
    "grown at the end": (lambda job: job.part(range(40)), lambda job: job, 10),
    "grown in between": (lambda job: job.part(range(0, NUM_ROWS, 2)), lambda job: job, 25),
    "shrunk": (lambda job: job, lambda job: job.part(range(10, 30)), 0),
    "shrunk to one": (lambda job: job, lambda job: job.part([20]), 0),
    "reversed": (lambda job: job, lambda job: job.part(range(NUM_ROWS)[::-1]), 0),
    "renamed": (lambda job: job, renamed, 0),
    "split anew": (lambda job: job, split_anew, 0),
    "labelled anew": (lambda job: job, labelled_anew, 0),
    "all of it and grown": (
        lambda job: job.part(range(45)),
        lambda job: renamed(split_anew(labelled_anew(job))),
        5,
    ),
    "overlapping": (lambda job: job.part(range(30)), lambda job: job.part(range(20, NUM_ROWS)), 20),
    "twins of samples in the store": (lambda job: with_twins(job).part(range(16)), with_twins, NUM_ROWS - 16 - 6),
}


IN_FOLDERS = ("labelled anew", "all of it and grown")
"""Changes of samples that have one label each."""


@pytest.mark.parametrize(
    ("make_job", "change"),
    [
        *((small_job, change) for change in CHANGES),
        *((half_precision_job, change) for change in CHANGES if change not in IN_FOLDERS),
    ],
)
def test_a_changed_set_embeds_only_pixels_that_the_store_has_not_seen(
    store: FeatureStore, make_job: Callable[[], Job], change: str
) -> None:
    before, after, num_needed = CHANGES[change]
    first = before(make_job())
    first.write(store)
    second = embedded_otherwise(after(make_job()))
    assert second.write(store) == num_needed
    key = check(store, second, carried=first)
    check(store, first, carried=first)
    assert verify(store) == []
    if key != first.key:
        num_failed = num_needed - store.info(key)["num_embedded"]
        assert 0 <= num_failed <= len(FAILED)
        assert store.info(key)["num_reused"] == len(second.ids_M) - len(second.failed) - num_needed + num_failed
    assert second.write(store) == first.write(store) == 0
    assert store.incomplete() == []


def test_the_name_of_a_dataset_makes_another_set_of_the_same_rows(store: FeatureStore, job: Job) -> None:
    job.write(store)
    assert embedded_otherwise(job).write(store, dataset="beetles") == 0
    key = check(store, job, carried=job, dataset="beetles")
    assert key.path.startswith("beetles/")
    store.delete(job.key)
    check(store, job, carried=job, dataset="beetles")
    assert verify(store) == []


def test_sets_are_merged_from_several_sources(store: FeatureStore, job: Job) -> None:
    parts = [job.part(range(17)), job.part(range(15, 33)), job.part(range(33, NUM_ROWS))]
    assert [part.write(store) for part in parts] == [17, 16, 17]
    assert embedded_otherwise(job).write(store) == 0
    key = check(store, job, carried=job)
    assert [source["rows"] for source in sources_of(store, key)] == [16, 16, 16]
    assert sorted(shared_rows(store)[key].values()) == [16, 16, 18]  # two are of two parts
    assert verify(store) == []


def test_equal_samples_of_one_set_are_embedded_once(store: FeatureStore, job: Job) -> None:
    twins = with_twins(job)
    assert twins.write(store) == NUM_ROWS - 6
    key = check(store, twins, carried=twins)
    assert (store.info(key)["num_embedded"], store.info(key)["num_reused"]) == (NUM_ROWS - 6 - 2, 5)
    assert verify(store) == []


def test_samples_whose_digests_end_alike_are_not_equal(store: FeatureStore, job: Job) -> None:
    contents_M3 = job.contents_M3.copy()
    contents_M3[:, 2] = contents_M3[0, 2]
    alike = replace(job, contents_M3=contents_M3)
    assert alike.write(store) == NUM_ROWS
    check(store, alike, carried=alike)


def test_samples_equal_to_one_that_came_later_are_not_left_without_a_row(store: FeatureStore, job: Job) -> None:
    """What is known without reading is offered first, and an equal sample before it, read later, has its row too."""
    twins = with_twins(job)
    with twins.writer(store) as writer:
        later = np.arange(20, NUM_ROWS)
        needed = later[writer.offer(later, twins.contents_M3[later])]
        assert len(needed) == 29
        earlier = np.arange(20)
        assert writer.offer(earlier, twins.contents_M3[earlier]).all()
        everything = np.concatenate([earlier, needed])
        failed = {sample: twins.failed[sample] for sample in everything.tolist() if sample in twins.failed}
        decoded = np.setdiff1d(everything, list(failed))
        writer.append(decoded, twins.features_MD[decoded], failed)
    check(store, twins, carried=twins)
    assert verify(store) == []


def test_a_full_block_behind_one_that_is_not_is_kept_when_the_writer_closes(store: FeatureStore, job: Job) -> None:
    twins = with_twins(job)
    with twins.writer(store) as writer:
        twins.append(writer, np.arange(5))
        twins.append(writer, np.arange(SHARD_ROWS, NUM_ROWS))
    with twins.writer(store) as writer:
        # Samples 20 to 24, in block 1, wait for the rows of samples in block 0.
        assert writer.missing_blocks == (0, 1)
    assert twins.write(store) == 2 * SHARD_ROWS - 5
    check(store, twins, carried=twins)


def test_rows_of_an_unfinished_extraction_serve_other_sets(store: FeatureStore, job: Job) -> None:
    with job.writer(store) as writer:
        job.append(writer, np.arange(2 * SHARD_ROWS + 3))
    other = embedded_otherwise(renamed(job))
    assert other.write(store) == NUM_ROWS - 2 * SHARD_ROWS
    check(store, other, carried=job.part(range(2 * SHARD_ROWS)))
    assert job.write(store) == 0  # the rest is in the store by now
    check(store, job, carried=replace(other, features_MD=store.read(other.key).array[:]))
    assert verify(store) == []


def test_what_was_not_finite_is_counted_in_sets_that_carry_it(store: FeatureStore, job: Job) -> None:
    features_MD = job.features_MD.copy()
    features_MD[7, 0], features_MD[8, 1:3] = np.inf, np.nan
    odd = replace(job, features_MD=features_MD)
    odd.write(store)
    for part, count in ((range(8), 1), (range(20), 2), (range(20, 40), 0)):
        odd.part(part).write(store)
        assert store.info(odd.part(part).key)["num_not_finite"] == count


def test_few_new_samples_among_many_fill_one_shard(store: FeatureStore, job: Job) -> None:
    """Ten new samples, spread over all blocks, lie in one shard instead of one a block."""
    new = range(2, NUM_ROWS, 5)
    job.part([sample for sample in range(NUM_ROWS) if sample not in new]).write(store)
    assert job.write(store) == len(new)
    (own, _) = store.info(job.key)["sources"]
    shards = [name for name in files(store) if name.startswith(f"{own['path']}/features/c/")]
    assert len(shards) == 1


# Failures


def test_images_that_failed_are_not_tried_again(store: FeatureStore, job: Job) -> None:
    job.part(range(4)).write(store)
    again = replace(renamed(job), failed={49: FAILED[49]})  # which would decode sample 3 now
    assert again.write(store) == NUM_ROWS - 4
    check(store, replace(again, failed=FAILED), carried=job)


def test_images_that_failed_are_tried_again_where_that_is_asked(store: FeatureStore, job: Job) -> None:
    job.write(store)
    better = replace(embedded_otherwise(job), failed={})
    assert better.write(store) == 0
    check(store, job, carried=job)
    assert better.write(store, retry_failed=True) == len(FAILED)
    decoded = [sample for sample in range(NUM_ROWS) if sample not in FAILED]
    check(store, better, carried=job.part(decoded))
    assert (store.keys(), store.incomplete()) == ([job.key], [])
    assert better.write(store, retry_failed=True) == 0
    assert renamed(better).write(store) == 0  # the row counts, not the failure of before
    check(store, renamed(better), carried=replace(better, features_MD=store.read(better.key).array[:]))
    assert verify(store) == []


def test_a_killed_second_try_is_resumed_and_others_still_see_the_failures(store: FeatureStore, job: Job) -> None:
    job.write(store)
    better = replace(job, failed={49: FAILED[49]})
    with better.writer(store, retry_failed=True) as writer:
        better.append(writer, np.arange(SHARD_ROWS))
    check(store, job, carried=job)
    assert better.write(store, retry_failed=True) == 1
    check(store, better, carried=job)


def test_images_that_failed_are_tried_again_when_their_bytes_change(store: FeatureStore, job: Job) -> None:
    job.write(store)
    contents_M3 = job.contents_M3.copy()
    contents_M3[3] = content_of(b"mended")
    mended = replace(job, contents_M3=contents_M3, failed={49: FAILED[49]})
    assert mended.write(store) == 1
    check(store, mended, carried=job)


def test_samples_that_could_not_be_read_are_neither_equal_nor_remembered(store: FeatureStore, job: Job) -> None:
    contents_M3 = job.contents_M3.copy()
    contents_M3[[5, 6]] = UNREADABLE
    gone = replace(job, contents_M3=contents_M3, failed=FAILED | {5: "the file is gone", 6: "permission denied"})
    assert gone.write(store) == NUM_ROWS
    check(store, gone, carried=gone)
    assert gone.write(store) == 2  # asked again, and still gone
    assert renamed(gone).write(store) == 2
    assert job.write(store) == 2  # back again
    check(store, job, carried=job)


def test_an_unreadable_sample_that_is_appended_has_no_row_for_others(store: FeatureStore, job: Job) -> None:
    """A sample whose content nobody knows may have features, as of a caller without digests, but shares none."""
    unknown = replace(job, contents_M3=np.zeros_like(job.contents_M3))
    assert unknown.write(store) == NUM_ROWS
    assert unknown.write(store) == NUM_ROWS
    assert job.write(store) == NUM_ROWS


# Damage


def flip_byte(path: Path, offset: int = 100) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flipped", "lost", "cut"])
def test_rows_of_a_damaged_shard_are_embedded_again_and_that_is_said(
    store: FeatureStore, job: Job, damage: str
) -> None:
    first = job.part(range(40))
    first.write(store)
    shard = store.path / rows_path(store) / layout.shard_object(1)
    if damage == "flipped":
        flip_byte(shard)
    else:
        cut = shard.read_bytes()[:-9]
        shard.unlink()
        if damage == "cut":
            shard.write_bytes(cut)
    second = embedded_otherwise(job)
    said: list[str] = []
    with store.writer(second.plan(), provenance={}, log=said.append) as writer:
        assert second.append(writer, writer.missing_samples) == SHARD_ROWS + 10
    sound = [*range(SHARD_ROWS), *range(2 * SHARD_ROWS, 40)]
    check(store, second, carried=job.part(sound))
    assert len(said) == 1
    assert "warning: damaged rows are not used again, and their images are embedded anew" in said[0]
    assert "rows 16 to" in said[0]
    # What was embedded anew is found from then on, beside the damaged rows of the same contents.
    assert renamed(second).write(store) == 0
    check(store, renamed(second), carried=replace(second, features_MD=store.read(second.key).array[:]))
    assert {finding.path for finding in verify(store)} == {store.info(first.key)["sources"][0]["path"]}


@pytest.mark.parametrize("name", ["zarr.json", "content/c/0/0", "row/c/0"])
def test_a_damaged_set_gives_no_rows_and_that_is_said(store: FeatureStore, job: Job, name: str) -> None:
    job.part(range(40)).write(store)
    flip_byte(store.path / job.part(range(40)).key.path / name, offset=-10)
    said: list[str] = []
    with store.writer(job.plan(), provenance={}, log=said.append) as writer:
        assert job.append(writer, writer.missing_samples) == NUM_ROWS
    check(store, job, carried=job)
    assert len(said) == 1
    assert f"{job.part(range(40)).key.path} is damaged and none of its rows are used again" in said[0]


def test_blocks_with_a_damaged_record_are_embedded_again_and_that_is_said(store: FeatureStore, job: Job) -> None:
    with job.writer(store) as writer:
        job.append(writer, np.arange(3 * SHARD_ROWS))
    flip_byte(store.path / rows_path(store) / layout.commit_object(1))
    said: list[str] = []
    other = embedded_otherwise(renamed(job))
    with store.writer(other.plan(), provenance={}, log=said.append) as writer:
        assert other.append(writer, writer.missing_samples) == SHARD_ROWS + 2
    sound = [*range(SHARD_ROWS), *range(2 * SHARD_ROWS, 3 * SHARD_ROWS)]
    check(store, other, carried=job.part(sound))
    assert len(said) == 1
    assert layout.commit_object(1) in said[0]


# Disk


def disk_bytes(store: FeatureStore) -> int:
    """Return the bytes of all files, as if each filled whole blocks of 4 KiB."""
    return sum(-(-len(content) // 4096) * 4096 for content in files(store).values())


@pytest.fixture(scope="module")
def large_job() -> Job:
    """Make 10,100 samples of 512 features."""
    rng = np.random.default_rng(3)
    size = 10_100
    return replace(
        small_job(),
        features_MD=rng.normal(size=(size, 512)).astype(np.float32),
        labels_M=rng.integers(0, 5, size),
        ids_M=[f"class/{number:05d}.jpg" for number in range(size)],
        split_M=["train", "val", "test", "train", "train"] * (size // 5),
        contents_M3=rng.integers(1, 2**63, (size, 3)).astype(np.uint64),
        failed={},
    )


def write_large(job: Job, store: FeatureStore) -> int:
    with job.writer(store, shard_rows=1024) as writer:
        return job.append(writer, writer.missing_samples)


@pytest.mark.parametrize("where", ["at the end", "everywhere"])
def test_a_hundred_new_samples_take_their_rows_and_little_more(store: FeatureStore, large_job: Job, where: str) -> None:
    new = np.arange(10_000, 10_100) if where == "at the end" else np.arange(50, 10_100, 101)
    write_large(large_job.part(np.setdiff1d(np.arange(10_100), new)), store)
    before = disk_bytes(store)
    assert write_large(large_job, store) == len(new) == 100
    assert disk_bytes(store) - before <= 100 * 512 * 4 + 0.05 * before


def test_labelling_all_anew_takes_little(store: FeatureStore, large_job: Job) -> None:
    write_large(large_job, store)
    before = disk_bytes(store)
    moved = labelled_anew(large_job)
    assert write_large(moved, store) == 0
    assert disk_bytes(store) - before <= 0.05 * before
    np.testing.assert_array_equal(store.read(moved.key).features, moved.features_MD)


def test_options_of_the_layout_may_differ_between_sets_that_share_rows(store: FeatureStore, job: Job) -> None:
    options: dict[str, Any] = {"shard_rows": 64}
    job.part(range(40)).write(store)
    assert embedded_otherwise(job).write(store, **options) == 10
    check(store, embedded_otherwise(job), carried=job.part(range(40)))
