"""A small job: 50 samples, 8 features, 4 shards, two samples that failed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.writer.feature_writer import FeatureWriter

NUM_ROWS, FEATURE_DIM, SHARD_ROWS = 50, 8, 16
FAILED = {3: "truncated", 49: "not an image"}


@dataclass(frozen=True)
class Job:
    """The input of one extraction, the same every time."""

    key: FeatureKey
    features_MD: NDArray[Any]
    labels_M: NDArray[Any]
    ids_M: list[str]
    split_M: list[str]

    def writer(self, store: FeatureStore, **options: Any) -> FeatureWriter:
        given: dict[str, Any] = {
            "ids": self.ids_M,
            "labels": self.labels_M,
            "split": self.split_M,
            "class_names": ("ant", "bee", "cat", "dog", "elk"),
            "metric": "mean_per_class",
            "feature_dim": self.features_MD.shape[1],
            "provenance": {"weights": "random, seed 0"},
            "shard_rows": SHARD_ROWS,
        }
        return store.writer(self.key, **(given | options))

    def append(self, writer: FeatureWriter, rows: NDArray[np.int64]) -> None:
        """Append these rows as an extraction does, failed ones with their reason."""
        decoded = rows[~np.isin(rows, list(FAILED))]
        writer.append(decoded, self.features_MD[decoded], {row: FAILED[row] for row in rows.tolist() if row in FAILED})

    def write(self, store: FeatureStore, **options: Any) -> None:
        """Append all missing rows, in batches that do not end where shards do."""
        with self.writer(store, **options) as writer:
            missing = writer.missing_rows
            for start in range(0, len(missing), 7):
                self.append(writer, missing[start : start + 7])


def small_job() -> Job:
    rng = np.random.default_rng(0)
    key = FeatureKey(
        dataset="insects/2024",
        images="0123456789abcdef",
        backbone="tiny.random",
        weights="fedcba9876543210",
        preprocess="00000000000000ff",
        decoder="pillow",
        precision="float32",
        dtype="float32",
    )
    return Job(
        key=key,
        features_MD=rng.normal(size=(NUM_ROWS, FEATURE_DIM)).astype(np.float32),
        labels_M=rng.integers(0, 5, size=NUM_ROWS),
        ids_M=[f"Größe/{row:03d}.jpg" for row in range(NUM_ROWS)],
        split_M=["train", "val", "test", "train", "train"] * 10,
    )


def half_precision_job() -> Job:
    """Make the job with float16 features and several labels per sample."""
    job = small_job()
    labels_MK = np.random.default_rng(1).integers(0, 2, size=(NUM_ROWS, 5)).astype(np.uint8)
    return replace(
        job,
        key=replace(job.key, dtype="float16"),
        features_MD=job.features_MD.astype(np.float16),
        labels_M=labels_MK,
    )


def wait_until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Return once the condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.01)


def array_files(store: FeatureStore, key: FeatureKey) -> dict[str, bytes]:
    """Return the content of every file of a key's arrays, without the records, which hold times."""
    root = store.path / key.path
    files = (path for path in root.rglob("*") if path.is_file() and path.parent != root)
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.parent.name != "commits"}
