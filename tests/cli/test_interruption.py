"""Whatever ends an extraction, running it again gives the files of an uninterrupted one, and nothing is done twice."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import finish, start
from support.small_disks import enlarge, small_disk
from support.store_cases import array_files

from penultimate.store.feature_store import FeatureStore
from penultimate.store.upkeep.verify import verify

pytestmark = pytest.mark.slow

NUM_IMAGES = 240
SHARD_ROWS = 8
NUM_SHARDS = NUM_IMAGES // SHARD_ROWS
BAD = ("a/007.png", "b/010.png", "c/023.png")


@dataclass(frozen=True)
class Job:
    """A set of images and the store that an uninterrupted run makes of it."""

    images: Path
    files: dict[str, bytes]
    seconds: float

    def command(self, store: Path, *more: str) -> list[str]:
        model = ["--model", "test_resnet", "--weights", "random", "--workers", "1", "--batch-size", "8", "--no-cache"]
        shards = ["--set", f"shard_rows={SHARD_ROWS}"]
        return ["extract", str(self.images), "--store", str(store), *model, *shards, *more]

    def check(self, store: Path) -> None:
        """Fail unless ``store`` is complete and equals that of the uninterrupted run."""
        opened = FeatureStore(store)
        (key,) = opened.keys()
        assert verify(opened) == []
        assert array_files(opened) == self.files
        assert list(opened.read(key).failed) == list(BAD)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(NUM_IMAGES // 3):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{number:03d}.png")
    for path in BAD:
        (folder / "images" / path).write_bytes(b"not an image")
    unknown = Job(folder / "images", {}, 0.0)
    assert finish(start(unknown.command(folder / "first"), folder / "log")) == 0  # starts the fork server
    began = time.monotonic()
    assert finish(start(unknown.command(folder / "store"), folder / "log")) == 0
    seconds = time.monotonic() - began
    store = FeatureStore(folder / "store")
    return Job(folder / "images", array_files(store), seconds)


def commits(store: Path) -> dict[Path, int]:
    """Return commit records, and shards that have one, with the times at which they were written."""
    records = [path for path in store.rglob("features/commits/*.json") if path.stem.isdecimal()]
    shards = [path.parents[1] / "c" / path.stem / "0" for path in records]
    return {path: path.stat().st_mtime_ns for path in (*records, *shards)}


def only_error(log: Path) -> str:
    """Return the last line of stderr, the error, after the lines of progress."""
    lines = log.read_text().splitlines()
    assert not any("Traceback" in line or line.startswith("penultimate: ") for line in lines[:-1]), lines
    return lines[-1]


def wait_for_commits(store: Path, number: int) -> None:
    until = time.monotonic() + 300  # a busy machine takes a minute to import torch
    while len(commits(store)) < 2 * number:
        assert time.monotonic() < until, "no shard was committed"
        time.sleep(0.01)


def test_killed_at_20_random_moments_it_resumes_to_the_same_files_and_computes_no_shard_twice(
    job: Job, tmp_path: Path
) -> None:
    """A third of the kills fall anywhere in a run, start-up included; the others once some shards are committed."""
    moments = random.Random(0)
    kills, stores, midway = 0, 0, 0
    store, log = tmp_path / "0", tmp_path / "log"
    while kills < 20 or midway < 5:  # kills before the first shard or after the last alone would show little
        assert kills < 60, f"{midway} of {kills} kills fell between the first shard and the last"
        before_it = commits(store)
        anywhere = moments.random() < 1 / 3
        process = start(job.command(store), log, sync_seconds=0.0 if anywhere else 0.02)  # on a fast disk too few
        if anywhere:
            process.join(moments.uniform(0.0, job.seconds))
        else:
            more = moments.randrange(1, NUM_SHARDS // 2)
            while process.exitcode is None and len(commits(store)) < min(2 * NUM_SHARDS, len(before_it) + 2 * more):
                process.join(0.005)
        done = commits(store)  # before the kill: these must survive it as they are
        process.kill()  # which may have ended meanwhile
        ended = finish(process)
        assert {path: commits(store).get(path) for path in done} == done
        if ended == -signal.SIGKILL:
            kills += 1
            midway += 0 < len(done) < 2 * NUM_SHARDS
        else:
            assert ended == 0, log.read_text()
            job.check(store)
            stores += 1
            store = tmp_path / str(stores)
    before = commits(store)
    assert finish(start(job.command(store), log)) == 0
    assert {path: commits(store)[path] for path in before} == before
    job.check(store)


def test_ctrl_c_stops_within_seconds_and_what_is_done_is_resumed_even_in_another_folder(
    job: Job, tmp_path: Path
) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    process = start(job.command(store), log, sync_seconds=0.04)  # so that it is not over before the signal comes
    wait_for_commits(store, 2)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert finish(process, within=60) == 130  # on a disk that takes a second a shard, on a busy machine
    assert only_error(log) == "penultimate: interrupted; run the same command again to go on where it stopped"
    store = Path(shutil.move(store, tmp_path / "elsewhere"))
    before = commits(store)
    assert 0 < len(before) < 2 * NUM_SHARDS
    assert finish(start(job.command(store), log)) == 0
    assert {path: commits(store)[path] for path in before} == before
    job.check(Path(shutil.move(store, tmp_path / "third")))


def test_two_processes_with_half_of_it_each_make_the_store_of_one(job: Job, tmp_path: Path) -> None:
    store = tmp_path / "store"
    halves = [start(job.command(store, "--shard", f"{part}/2"), tmp_path / f"log{part}") for part in range(2)]
    assert [finish(half) for half in halves] == [0, 0]
    job.check(store)
    said = "".join((tmp_path / f"log{part}").read_text() for part in range(2))
    assert said.count("wait for other parts") <= 1  # none where both ended at once; the last to end never waits


def test_a_part_alone_leaves_the_rest_and_more_parts_than_shards_are_no_error(job: Job, tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    assert finish(start(job.command(store, "--shard", "1/3"), log)) == 0
    assert "part 1/3 is done; 1 of 1 sets of features wait for other parts" in log.read_text()
    (begun,) = FeatureStore(store).incomplete()
    assert begun.done_rows == NUM_IMAGES // 3
    assert finish(start(job.command(store, "--shard", "0/99"), log)) == 0
    assert finish(start(job.command(store), log)) == 0
    job.check(store)
    assert finish(start(job.command(store, "--shard", "2/2"), log)) == 2
    assert "expected 0/2 to 1/2, got 2/2" in log.read_text()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount 104 KiB, which hold some shards but not all."""
    with small_disk(tmp_path / "disk", "104k") as mounted:
        yield mounted


def test_a_full_disk_is_one_line_and_with_more_space_it_resumes(job: Job, tmp_path: Path, disk: Path) -> None:
    store, log = disk / "store", tmp_path / "log"
    assert finish(start(job.command(store), log)) == 1
    assert only_error(log).endswith(
        "could not be written: no space left on device; free some space and run again to resume"
    )
    before = commits(store)
    assert 0 < len(before) < 2 * NUM_SHARDS
    enlarge(disk, "4m")
    assert finish(start(job.command(store), log)) == 0
    assert {path: commits(store)[path] for path in before} == before
    job.check(store)


def test_a_limit_on_the_size_of_files_is_one_line_too(job: Job, tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    assert finish(start(job.command(store), log, largest_file=3000)) == 1  # a shard takes 3,100 bytes
    assert only_error(log).endswith("could not be written: file too large; free some space and run again to resume")
    assert finish(start(job.command(store), log)) == 0
    job.check(store)
