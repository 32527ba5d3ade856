"""Any flipped byte of a key is found, and most are refused by a plain read as well."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.store_cases import SHARD_ROWS, Job, small_job

from penultimate.store.errors import CorruptFeaturesError, UnknownNameError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.verify import verify

OBJECTS = [
    "zarr.json",
    "features/zarr.json",
    "features/c/0/0",
    "features/c/3/0",
    "features/commits/plan.json",
    "features/commits/2.json",
    *(f"{column}/{name}" for column in ("labels", "ids", "split", "failed") for name in ("zarr.json", "c/0")),
]


@pytest.fixture
def job() -> Job:
    return small_job()


@pytest.fixture
def store(tmp_path: Path, job: Job) -> FeatureStore:
    store = FeatureStore.create(tmp_path / "store")
    job.write(store)
    return store


def test_the_list_of_objects_above_names_every_kind_there_is(store: FeatureStore, job: Job) -> None:
    root = store.path / job.key.path
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    same_kind = {f"features/c/{shard}/0" for shard in (1, 2)} | {
        f"features/commits/{shard}.json" for shard in (0, 1, 3)
    }
    assert there == set(OBJECTS) | same_kind


def test_a_sound_store_has_no_findings(store: FeatureStore) -> None:
    assert verify(store) == []


@pytest.mark.parametrize("name", OBJECTS)
def test_any_flipped_byte_is_found(store: FeatureStore, job: Job, name: str) -> None:
    path = store.path / job.key.path / name
    content = path.read_bytes()
    rng = np.random.default_rng(len(content))
    # The last bytes are always among them: in a shard they are its index and that index's checksum.
    offsets = {*rng.integers(len(content), size=12).tolist(), 0, *range(len(content) - 4, len(content))}
    for offset in sorted(offsets):
        flipped = bytearray(content)
        flipped[offset] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        findings = verify(store)
        assert findings, f"byte {offset} of {len(content)} was flipped and not found"
        assert all(finding.path == job.key.path for finding in findings)
        assert any(finding.object.startswith(name.partition("/")[0]) for finding in findings)
    path.write_bytes(content)
    assert verify(store) == []


def test_a_finding_names_the_shard_and_its_rows_and_reading_refuses_them(store: FeatureStore, job: Job) -> None:
    path = store.path / job.key.path / "features/c/2/0"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    (finding,) = verify(store)
    assert (finding.object, finding.rows) == ("features/c/2/0", range(2 * SHARD_ROWS, 3 * SHARD_ROWS))
    features = store.read(job.key)
    assert len(features.labels) == features.num_rows
    with pytest.raises(CorruptFeaturesError, match="penultimate store verify"):
        _ = features.features


@pytest.mark.parametrize("name", ["features/c/1/0", "features/commits/1.json", "labels/c/0", "ids/zarr.json"])
def test_a_lost_file_is_found(store: FeatureStore, job: Job, name: str) -> None:
    (store.path / job.key.path / name).unlink()
    assert [finding.object.partition("/")[0] for finding in verify(store)] == [name.partition("/")[0]]


def test_rows_of_a_lost_shard_are_refused_where_plain_zarr_would_fill_them(store: FeatureStore, job: Job) -> None:
    (store.path / job.key.path / "features/c/1/0").unlink()
    features = store.read(job.key)
    with pytest.raises(CorruptFeaturesError, match=r"rows 16 to 32, .* is missing or empty"):
        _ = features.features
    with pytest.raises(CorruptFeaturesError, match="missing or empty"):
        list(features.batches(5))


@pytest.mark.parametrize("column", ["labels", "ids", "split", "failed"])
def test_a_lost_column_is_refused_where_plain_zarr_would_fill_it(store: FeatureStore, job: Job, column: str) -> None:
    (store.path / job.key.path / column / "c/0").unlink()
    with pytest.raises(CorruptFeaturesError, match=column):
        _ = store.read(job.key).labels


def test_a_truncated_shard_is_found_and_refused(store: FeatureStore, job: Job) -> None:
    path = store.path / job.key.path / "features/c/1/0"
    content = path.read_bytes()
    for length in (0, 1, 3, 4, 20, 200, len(content) - 1):
        path.write_bytes(content[:length])
        assert [finding.object for finding in verify(store)] == ["features/c/1/0"]
        with pytest.raises(CorruptFeaturesError):
            _ = store.read(job.key).features


def test_shards_that_changed_places_are_found(store: FeatureStore, job: Job) -> None:
    """Exchanged shards are found, although each matches its own checksums and its exchanged record."""
    root = store.path / job.key.path / "features"
    for first, second in (("c/0/0", "c/1/0"), ("commits/0.json", "commits/1.json")):
        content = (root / first).read_bytes(), (root / second).read_bytes()
        (root / first).write_bytes(content[1])
        (root / second).write_bytes(content[0])
        assert verify(store)


def test_a_damaged_group_can_still_be_listed_and_removed(store: FeatureStore, job: Job) -> None:
    path = store.path / job.key.path / "zarr.json"
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tidy"))
    with pytest.raises(CorruptFeaturesError, match="store rm"):
        store.read(job.key)
    store.delete(store.find(job.key.digest))
    assert store.keys() == []


def test_a_damaged_record_of_an_unfinished_key_is_found_and_its_shard_written_again(job: Job, tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "unfinished")
    with job.writer(store) as writer:
        job.append(writer, np.arange(2 * SHARD_ROWS))
    assert verify(store) == []
    record = store.path / job.key.path / "features/commits/1.json"
    record.write_bytes(record.read_bytes()[:-1])
    assert [finding.object for finding in verify(store)] == ["features/commits/1.json"]
    with job.writer(store) as writer:
        assert writer.missing_shards == (1, 2, 3)
        job.append(writer, writer.missing_rows)
    assert verify(store) == []


def test_nothing_is_found_where_a_key_was_only_just_begun(job: Job, tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "begun")
    job.writer(store).close()
    shutil.rmtree(store.path / job.key.path / "features")
    assert verify(store) == []
    with pytest.raises(UnknownNameError):
        store.read(job.key)
