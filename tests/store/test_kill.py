"""Killed at any moment and run again, a store holds what an uninterrupted run holds."""

import itertools
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dying_objects import DyingObjects, Killed
from support.store_cases import NUM_ROWS, Job, array_files, small_job, wait_until

from penultimate.store.feature_store import FeatureStore
from penultimate.store.upkeep.verify import verify

SCRIPT = Path(__file__).parents[1] / "support" / "fake_extract.py"


@pytest.fixture(scope="module")
def job() -> Job:
    return small_job()


@pytest.fixture(scope="module")
def expected(job: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of an uninterrupted run."""
    store = FeatureStore.create(tmp_path_factory.mktemp("uninterrupted") / "store")
    job.write(store)
    return array_files(store)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_dying_at_each_single_change_leaves_a_key_that_resumes_to_the_same_files(
    job: Job, expected: dict[str, bytes], tmp_path: Path, after: bool
) -> None:
    for at in itertools.count():
        store = FeatureStore.create(tmp_path / str(at))
        store.objects = DyingObjects(store.path, at=at, after=after)
        try:
            job.write(store)
            break
        except Killed:
            survivor = FeatureStore(store.path)
            assert verify(survivor) == []  # of what is committed; also where the kill came after the last change
            job.write(survivor)
            assert array_files(survivor) == expected, f"died at change {at}"
            assert verify(survivor) == []
    assert at > 30  # columns, plan, four shards with their records, failed, group: every one was tried


def test_dying_while_a_key_is_deleted_never_leaves_one_that_looks_complete(job: Job, tmp_path: Path) -> None:
    for at in range(3):
        store = FeatureStore.create(tmp_path / str(at))
        job.write(store)
        store.objects = DyingObjects(store.path, at=at, after=True)
        with pytest.raises(Killed):
            store.delete(job.key)
        survivor = FeatureStore(store.path)
        assert survivor.keys() == []
        job.write(survivor)
        assert verify(survivor) == []


def start(store: FeatureStore, first: int = 0, stop: int = 4, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(SCRIPT), str(store.path), str(first), str(stop), *more]
    pipe: Any = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def lines(process: "subprocess.Popen[str]", number: int) -> list[str]:
    """Read so many lines of the process, letting it continue after each batch but the last."""
    assert process.stdin is not None
    assert process.stdout is not None
    read = []
    for count in range(number):
        read.append(process.stdout.readline())
        if count and count < number - 1:
            process.stdin.write("\n")
            process.stdin.flush()
    return read


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate("\n" * 100, timeout=60)
    return process.returncode, out, err


def test_sigkill_in_the_middle_and_running_again_gives_the_files_of_an_uninterrupted_run(
    job: Job, expected: dict[str, bytes], tmp_path: Path
) -> None:
    store = FeatureStore.create(tmp_path / "store")
    with start(store) as process:
        assert lines(process, 7)[0] == "missing 0 1 2 3\n"
        wait_until(lambda: store.incomplete()[0].done_rows > 0)  # shards are written in the background
        process.kill()
    assert process.returncode == -9
    (begun,) = store.incomplete()
    assert 0 < begun.done_rows < begun.num_rows
    root = store.path / begun.path
    committed = {path: path.stat().st_mtime_ns for path in root.glob("features/commits/?.json")}
    assert committed
    with start(store) as process:
        code, out, err = finish(process)
    assert (code, err) == (0, "")
    assert out.startswith("missing 1 2 3\n")
    assert {path: path.stat().st_mtime_ns for path in committed} == committed  # none was computed twice
    assert array_files(store) == expected


def test_a_second_process_is_told_who_writes_and_a_killed_one_leaves_no_claim(job: Job, tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "store")
    with start(store) as holder:
        lines(holder, 2)
        with start(store) as second:
            code, _, err = finish(second)
        assert code == 1
        assert err.startswith("StoreBusyError")
        assert f"process {holder.pid} on" in err
        assert "wait for it to end" in err
        holder.kill()
    with job.writer(store) as writer:
        assert writer.missing_blocks


def test_two_processes_on_disjoint_blocks_make_the_store_of_one(
    job: Job, expected: dict[str, bytes], tmp_path: Path
) -> None:
    store = FeatureStore.create(tmp_path / "store")
    with start(store, 0, 2) as first, start(store, 2, 4) as second:
        lines(first, 2)
        lines(second, 2)
        assert finish(first)[0] == finish(second)[0] == 0
    assert array_files(store) == expected
    assert store.keys() == [job.key]
    assert not list(store.path.rglob("writer.lock"))


def needed(out: str) -> int:
    """Return the sum of what a process said it needed."""
    return sum(int(line.split()[1]) for line in out.splitlines() if line.startswith("done"))


def test_two_processes_carry_over_the_rows_of_other_sets(job: Job, tmp_path: Path) -> None:
    """Each does one half of a set that overlaps with two others; a third set needs nothing then."""
    store = FeatureStore.create(tmp_path / "store")
    job.part(range(10)).write(store)
    job.part(range(30, 40)).write(store)
    otherwise = replace(job, features_MD=job.features_MD + 1)
    (tmp_path / "job").write_bytes(pickle.dumps(otherwise))
    with start(store, 0, 2, str(tmp_path / "job")) as first, start(store, 2, 4, str(tmp_path / "job")) as second:
        said = "".join([*lines(first, 2), *lines(second, 2)])
        (code, out, err), (other_code, other_out, other_err) = finish(first), finish(second)
    assert (code, other_code, err, other_err) == (0, 0, "", "")
    assert needed(said + out + other_out) == NUM_ROWS - 20
    expected = job.features_MD + 1
    carried = [*range(10), *range(30, 40)]
    expected[carried] = job.features_MD[carried]
    decoded = [sample for sample in range(NUM_ROWS) if sample not in job.failed]
    np.testing.assert_array_equal(store.read(job.key).features, expected[decoded])
    assert store.info(job.key)["num_embedded"] == NUM_ROWS - 20 - 1
    assert job.part(range(NUM_ROWS)[::-1]).write(store) == 0
    assert verify(store) == []
    assert not list(store.path.rglob("writer.lock"))


def test_sigkill_of_one_who_carries_rows_over_leaves_them_and_lets_go_of_them(job: Job, tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "store")
    base = job.part(range(30))
    base.write(store)
    with start(store) as process:
        lines(process, 11)  # 40 of 50 samples were offered, and what is new among them is not committed yet
        assert store.delete(base.key).kept  # the process refers to the rows
        process.kill()
    assert process.returncode == -9
    assert store.keys() == []
    assert job.write(store) >= NUM_ROWS - 30
    np.testing.assert_array_equal(store.read(job.key).features, job.features_MD[[*range(3), *range(4, 49)]])
    assert verify(store) == []
