"""A set that changes in every way, with kills in between, is always what a fresh extraction would make of it."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dying_objects import DyingObjects, Killed
from support.store_cases import SHARD_ROWS, Job, small_job

from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.contents import content_of
from penultimate.store.key import FeatureKey
from penultimate.store.upkeep.verify import verify

SCRIPT = Path(__file__).parents[1] / "support" / "fake_extract.py"
NUM_CONTENTS = 200
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One sample: the number of its content, and what lies around it."""

    content: int
    name: str
    label: int
    split: str

    @property
    def id(self) -> str:
        return f"{self.label}/{self.name}"

    @property
    def fails(self) -> bool:
        return self.content % 17 == 3


Samples = list[Sample]
Change = Callable[[Samples, np.random.Generator, list[Samples]], Samples]


def grow(samples: Samples, rng: np.random.Generator, earlier: list[Samples]) -> Samples:
    """Add samples, of which some have the content of one that is there, or was."""
    names = rng.integers(0, 10**9, size=int(rng.integers(1, 25)))
    return samples + [
        Sample(int(rng.integers(NUM_CONTENTS)), f"{name:09d}", int(rng.integers(5)), str(rng.choice(SPLITS)))
        for name in names
    ]


def shrink(samples: Samples, rng: np.random.Generator, earlier: list[Samples]) -> Samples:
    kept = [sample for sample in samples if rng.random() < 0.7]
    return kept if any(not sample.fails for sample in kept) else samples


def relabel(samples: Samples, rng: np.random.Generator, earlier: list[Samples]) -> Samples:
    return [replace(sample, label=int(rng.integers(5))) if rng.random() < 0.5 else sample for sample in samples]


def split_anew(samples: Samples, rng: np.random.Generator, earlier: list[Samples]) -> Samples:
    return [replace(sample, split=str(rng.choice(SPLITS))) for sample in samples]


def rename(samples: Samples, rng: np.random.Generator, earlier: list[Samples]) -> Samples:
    return [replace(sample, name=f"{rng.integers(10**9):09d}") for sample in samples]


def merge(samples: Samples, rng: np.random.Generator, earlier: list[Samples]) -> Samples:
    """Add the samples of an earlier set that are not there under their name."""
    other = earlier[int(rng.integers(len(earlier)))]
    there = {sample.name for sample in samples}
    return samples + [sample for sample in other if sample.name not in there]


CHANGES: tuple[Change, ...] = (grow, grow, shrink, relabel, split_anew, rename, merge)


class Walk:
    """A store in which a set is extracted after each change, and what must be in it by now."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.store = FeatureStore.create(folder / "store")
        self.rng = np.random.default_rng(seed)
        self.base = np.random.default_rng(1).normal(size=(NUM_CONTENTS, 8)).astype(np.float32)
        self.history: list[Samples] = [[]]
        self.sets: dict[FeatureKey, Samples] = {}
        self.rows: dict[int, np.ndarray[Any, Any]] = {}
        """Content -> its row, of all contents in the sets of the store."""

    def step(self, number: int, kill: Callable[["Walk", Job], None]) -> None:
        """Change the set, extract it, dying in between half of the time, and check what is there."""
        change = grow if number == 0 else CHANGES[int(self.rng.integers(len(CHANGES)))]
        samples = sorted(change(self.history[-1], self.rng, self.history), key=lambda sample: sample.id)
        self.history.append(samples)
        job = self.job(samples, number)
        was_there = self.store.contains(job.key)
        if self.rng.random() < 0.5:
            kill(self, job)
        num_needed = job.write(self.store)
        new = {sample.content for sample in samples if not sample.fails} - self.rows.keys()
        assert num_needed <= len({sample.content for sample in samples})
        if not was_there:
            assert self.store.info(job.key)["num_embedded"] == len(new), change.__name__
        self.rows |= {content: self.base[content] + np.float32(number) for content in new}
        self.sets[job.key] = samples
        self.check(job, samples)
        if len(self.sets) > 3:
            self.forget(job.key)

    def job(self, samples: Samples, number: int) -> Job:
        """Return the extraction of a set; each makes other features, which tell what was carried over."""
        contents = [sample.content for sample in samples]
        return Job(
            embedding=small_job().embedding,
            features_MD=self.base[contents] + np.float32(number),
            labels_M=np.array([sample.label for sample in samples]),
            ids_M=[sample.id for sample in samples],
            split_M=[sample.split for sample in samples],
            contents_M3=np.array([content_of(f"pixels {content}".encode()) for content in contents], np.uint64),
            failed={index: f"bad {sample.content}" for index, sample in enumerate(samples) if sample.fails},
        )

    def check(self, job: Job, samples: Samples) -> None:
        """Compare the set with a fresh extraction: columns exactly, and the rows with where they came from."""
        with suppress(FileExistsError):
            (self.folder / "fresh").mkdir()
        fresh_store = FeatureStore.create(self.folder / "fresh" / str(len(self.history)))
        job.write(fresh_store)
        found, fresh = FeatureStore(self.store.path).read(job.key), fresh_store.read(job.key)
        assert found.ids.tolist() == fresh.ids.tolist()
        np.testing.assert_array_equal(found.labels, fresh.labels, strict=True)
        np.testing.assert_array_equal(found.split, fresh.split, strict=True)
        assert found.failed == fresh.failed
        expected_ND = np.stack([self.rows[sample.content] for sample in samples if not sample.fails])
        np.testing.assert_array_equal(found.features, expected_ND, strict=True)
        assert verify(self.store) == []
        assert self.store.incomplete() == []

    def forget(self, current: FeatureKey) -> None:
        """Remove one of the other sets, and with it the rows that are of no set any more."""
        others = [key for key in self.sets if key != current]
        key = others[int(self.rng.integers(len(others)))]
        self.store.delete(key)
        del self.sets[key]
        there = {sample.content for samples in self.sets.values() for sample in samples}
        self.rows = {content: row for content, row in self.rows.items() if content in there}

    def end(self) -> None:
        """Remove every set; nothing is left."""
        for key in self.sets:
            self.store.delete(key)
        assert list(self.store.catalog.rows_folders()) == []
        assert not [path for path in self.store.path.rglob("*") if path.is_file() and path.name != "zarr.json"]


def dies_at_a_change(walk: Walk, job: Job) -> None:
    """Let the extraction die at one of its changes, before or after it was made."""
    dying = FeatureStore(walk.store.path)
    dying.objects = DyingObjects(walk.store.path, at=int(walk.rng.integers(30)), after=bool(walk.rng.integers(2)))
    with suppress(Killed):
        job.write(dying)


def killed_process(walk: Walk, job: Job) -> None:
    """Extract in a process of its own, and kill it with SIGKILL after some of its batches."""
    (walk.folder / "job").write_bytes(pickle.dumps(job))
    stop = job.plan().num_blocks
    pipe: Any = subprocess.PIPE
    command = [sys.executable, str(SCRIPT), str(walk.store.path), "0", str(stop), str(walk.folder / "job")]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(1 + int(walk.rng.integers(len(job.ids_M) // 4 + 2))):
            if not process.stdout.readline():
                break
            with suppress(BrokenPipeError):
                process.stdin.write("\n")
                process.stdin.flush()
        process.kill()


@pytest.mark.parametrize("seed", range(2))
def test_a_set_that_changes_with_deaths_in_between_is_always_that_of_a_fresh_extraction(
    tmp_path: Path, seed: int
) -> None:
    walk = Walk(tmp_path, seed)
    for number in range(10):
        walk.step(number, dies_at_a_change)
    walk.end()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 13))
def test_a_set_that_changes_with_kills_in_between_is_always_that_of_a_fresh_extraction(
    tmp_path: Path, seed: int
) -> None:
    walk = Walk(tmp_path, seed)
    for number in range(25):
        walk.step(number, killed_process)
    assert max(map(len, walk.history)) > 3 * SHARD_ROWS  # several blocks, so that a kill leaves a part
    walk.end()
