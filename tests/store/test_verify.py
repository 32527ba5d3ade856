"""Any flipped byte of a key is found, and most are refused by a plain read as well."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.store_cases import FAILED, NUM_ROWS, SHARD_ROWS, Job, half_precision_job, rows_path, small_job

from penultimate.store.errors import CorruptFeaturesError, UnknownNameError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.upkeep.verify import verify

OF_ROWS = [
    "zarr.json",
    "features/zarr.json",
    "features/c/0/0",
    "features/c/3/0",
    "features/commits/plan.json",
    "features/commits/2.json",
    "features/commits/closed.json",
]
OF_SET = ["zarr.json", *(f"{column}/{name}" for column in layout.COLUMNS for name in ("zarr.json", "c/0"))]
OBJECTS = [*(("rows", name) for name in OF_ROWS[1:]), *(("set", name) for name in OF_SET)]
"""What is verified; the group of the rows says nothing that a reader needs."""


@pytest.fixture
def job() -> Job:
    return small_job()


@pytest.fixture
def store(tmp_path: Path, job: Job) -> FeatureStore:
    store = FeatureStore.create(tmp_path / "store")
    job.write(store)
    return store


@pytest.fixture
def place(store: FeatureStore, job: Job) -> dict[str, Path]:
    """Return the folders of the set and of its rows."""
    return {"set": store.path / job.key.path, "rows": store.path / rows_path(store)}


def file_in(folder: Path, name: str) -> Path:
    """Return an object of an array; that of a column of several words has one more level."""
    path = folder / name
    return path / "0" if path.is_dir() else path


def test_the_lists_of_objects_above_name_every_kind_there_is(place: dict[str, Path]) -> None:
    same_kind = {f"features/c/{shard}/0" for shard in (1, 2)} | {
        f"features/commits/{shard}.json" for shard in (0, 1, 3)
    }
    for where, names, more in (("rows", OF_ROWS, same_kind), ("set", OF_SET, set())):
        root = place[where]
        there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        assert there == {str(file_in(root, name).relative_to(root)) for name in names} | more


def test_a_sound_store_has_no_findings(store: FeatureStore) -> None:
    assert verify(store) == []


@pytest.mark.parametrize(("where", "name"), OBJECTS, ids=["-".join(each) for each in OBJECTS])
def test_any_flipped_byte_is_found(store: FeatureStore, place: dict[str, Path], where: str, name: str) -> None:
    path = file_in(place[where], name)
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
        assert all(finding.path == str(place[where].relative_to(store.path)) for finding in findings)
        assert any(finding.object.startswith(name.partition("/")[0]) for finding in findings)
    path.write_bytes(content)
    assert verify(store) == []


def test_a_finding_names_the_shard_and_its_rows_and_reading_refuses_them(store: FeatureStore, job: Job) -> None:
    path = store.path / rows_path(store) / "features/c/2/0"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    (finding,) = verify(store)
    assert (finding.object, finding.rows) == ("features/c/2/0", range(2 * SHARD_ROWS, 3 * SHARD_ROWS))
    features = store.read(job.key)
    assert len(features.labels) == features.num_rows
    with pytest.raises(CorruptFeaturesError, match="penultimate store verify"):
        _ = features.features


@pytest.mark.parametrize("name", ["labels/c/0", "content/c/0/0", "ids/zarr.json"])
def test_a_lost_file_of_a_set_is_found(store: FeatureStore, place: dict[str, Path], name: str) -> None:
    (place["set"] / name).unlink()
    assert [finding.object.partition("/")[0] for finding in verify(store)] == [name.partition("/")[0]]


@pytest.mark.parametrize("name", ["features/c/1/0", "features/commits/1.json", "features/commits/plan.json"])
def test_a_lost_file_of_rows_is_found(store: FeatureStore, place: dict[str, Path], name: str) -> None:
    (place["rows"] / name).unlink()
    assert "features" in {finding.object.partition("/")[0] for finding in verify(store)}


def test_rows_of_a_lost_shard_are_refused_where_plain_zarr_would_fill_them(store: FeatureStore, job: Job) -> None:
    (store.path / rows_path(store) / "features/c/1/0").unlink()
    features = store.read(job.key)
    with pytest.raises(CorruptFeaturesError, match=r"rows 16 to 32, .* is missing or empty"):
        _ = features.features
    with pytest.raises(CorruptFeaturesError, match="missing or empty"):
        list(features.batches(5))


@pytest.mark.parametrize("column", ["labels", "ids", "split", "failed", "row"])
def test_a_lost_column_is_refused_where_plain_zarr_would_fill_it(store: FeatureStore, job: Job, column: str) -> None:
    (store.path / job.key.path / column / "c/0").unlink()
    features = store.read(job.key)
    with pytest.raises(CorruptFeaturesError, match=column):
        _ = features.features if column == "row" else features.labels


def test_a_truncated_shard_is_found_and_refused(store: FeatureStore, job: Job) -> None:
    path = store.path / rows_path(store) / "features/c/1/0"
    content = path.read_bytes()
    for length in (0, 1, 3, 4, 20, 200, len(content) - 1):
        path.write_bytes(content[:length])
        assert [finding.object for finding in verify(store)] == ["features/c/1/0"]
        with pytest.raises(CorruptFeaturesError):
            _ = store.read(job.key).features


def test_shards_that_changed_places_are_found(store: FeatureStore, job: Job) -> None:
    """Exchanged shards are found, although each matches its own checksums and its exchanged record."""
    root = store.path / rows_path(store) / "features"
    for first, second in (("c/0/0", "c/1/0"), ("commits/0.json", "commits/1.json")):
        content = (root / first).read_bytes(), (root / second).read_bytes()
        (root / first).write_bytes(content[1])
        (root / second).write_bytes(content[0])
        assert verify(store)


def test_a_damaged_group_can_still_be_listed_and_removed(store: FeatureStore, job: Job) -> None:
    path = store.path / job.key.path / "zarr.json"
    path.write_bytes(path.read_bytes().replace(b"mean_per_class", b"mean_per_klass"))
    with pytest.raises(CorruptFeaturesError, match="store rm"):
        store.read(job.key)
    assert store.keys() == [job.key]  # whose digest its path is
    store.delete(store.find(job.key.digest))
    assert store.keys() == []
    assert rows_left(store) == []


@pytest.mark.parametrize("damage", [b"", b"{}", b"tidy"])
def test_a_set_that_does_not_tell_its_key_any_more_is_named_and_can_be_removed(
    store: FeatureStore, job: Job, damage: bytes
) -> None:
    half_precision_job().write(store)
    path = store.path / job.key.path / "zarr.json"
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tidy") if damage == b"tidy" else damage)
    with pytest.raises(CorruptFeaturesError, match=f"{job.key.digest}/zarr.json is not the feature set .* store rm"):
        store.keys()
    store.delete(store.find_any(job.key.digest))
    assert store.keys() == [half_precision_job().key]
    assert verify(store) == []
    assert len(rows_left(store)) == 1


def rows_left(store: FeatureStore) -> list[str]:
    return [folder.path for folder in store.catalog.rows_folders()]


def test_a_damaged_record_of_an_unfinished_set_is_found_and_its_shard_written_again(job: Job, tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "unfinished")
    with job.writer(store) as writer:
        job.append(writer, np.arange(2 * SHARD_ROWS))
    assert verify(store) == []
    record = store.path / rows_path(store) / "features/commits/1.json"
    record.write_bytes(record.read_bytes()[:-1])
    assert [finding.object for finding in verify(store)] == ["features/commits/1.json"]
    with job.writer(store) as writer:
        assert writer.missing_blocks == (1, 2, 3)
        job.append(writer, writer.missing_samples)
    assert verify(store) == []
    assert store.read(job.key).num_rows == NUM_ROWS - len(FAILED)


def test_unfinished_rows_whose_plan_is_damaged_can_be_removed(job: Job, tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "unfinished")
    with job.writer(store) as writer:
        job.append(writer, np.arange(2 * SHARD_ROWS))
    plan = store.path / rows_path(store) / "features/commits/plan.json"
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(CorruptFeaturesError, match=r"plan\.json is not the plan"):
        store.incomplete()
    store.delete(store.find_any(rows_path(store)))
    assert rows_left(store) == []
    assert store.incomplete() == []
    job.write(store)
    assert verify(store) == []


def test_nothing_is_found_where_an_extraction_was_only_just_begun(job: Job, tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "begun")
    writer = job.writer(store)
    path = store.path / rows_path(store)
    assert verify(store) == []
    shutil.copytree(path, tmp_path / "copy")
    writer.close()
    assert rows_left(store) == []
    shutil.copytree(tmp_path / "copy", path)
    shutil.rmtree(path / "features")
    assert verify(store) == []
    with pytest.raises(UnknownNameError):
        store.read(job.key)
