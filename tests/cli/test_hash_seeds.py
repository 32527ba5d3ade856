"""Processes with other hash seeds, and folders listed in another order, make and find the same store and trials."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial_log import TrialLog

_SHUFFLED = """
import os, random, sys

class Shuffled(list):
    def __init__(self, path="."):
        with scandir(path) as found:
            super().__init__(sorted(found, key=lambda _: random.random()))
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass

scandir, listdir = os.scandir, os.listdir
os.scandir = Shuffled
os.listdir = lambda path=".": sorted(listdir(path), key=lambda _: random.random())
from penultimate.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def run_shuffled(hash_seed: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-c", _SHUFFLED, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_halves_made_under_different_hash_seeds_meet_in_one_store(photos: Path, tmp_path: Path) -> None:
    for name, tie in (("cat", "1"), ("dog", "01"), ("owl", "001")):  # equal as numbers
        (photos / name).rename(photos / tie)
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.rglob("*.jpg"))]
    (photos / "set.csv").write_text("\n".join(["path,label", *rows]))
    network = [
        "--model",
        "test_resnet",
        "--weights",
        "random",
        "--no-compile",
        "--set",
        "parity=false",
        "--set",
        "shard_rows=6",
    ]
    stores = {}
    for source in ("set.csv", "."):
        store = tmp_path / f"{source}.zarr"
        for part, seed in (("0/2", "1"), ("1/2", "2")):
            run_shuffled(seed, "extract", photos / source, "--store", store, *network, "--shard", part)
        (key,) = FeatureStore(store).keys()  # one key, and complete
        stores[source] = FeatureStore(store).read(key)
    assert stores["set.csv"].key.images == stores["."].key.images
    assert list(stores["."].class_names) == ["001", "01", "1"]
    trials = []
    for seed in ("3", "4"):
        log = tmp_path / f"trials{seed}"
        run_shuffled(seed, "probe", tmp_path / "..zarr", "--trials", log, "--l2", "1e-2:1:3", "--shots", "2")
        trials.append(TrialLog(log).trials())
    for one, other in zip(*trials, strict=True):
        assert one.id == other.id
        np.testing.assert_array_equal(one.arrays["test_predictions"], other.arrays["test_predictions"])
