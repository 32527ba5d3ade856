"""A small job: 50 samples, 8 features, 4 shards, two samples that failed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.format.contents import content_of
from penultimate.store.format.layout import variable_width
from penultimate.store.key import Embedding, FeatureKey
from penultimate.store.plan import Plan
from penultimate.store.writer.feature_writer import FeatureWriter

NUM_ROWS, FEATURE_DIM, SHARD_ROWS = 50, 8, 16
FAILED = {3: "truncated", 49: "not an image"}


@dataclass(frozen=True)
class Job:
    """The input of one extraction, the same every time."""

    embedding: Embedding
    features_MD: NDArray[Any]
    labels_M: NDArray[Any]
    ids_M: list[str]
    split_M: list[str]
    contents_M3: NDArray[np.uint64]
    failed: Mapping[int, str] = field(default_factory=lambda: FAILED)

    @property
    def key(self) -> FeatureKey:
        return self.plan().key(self.contents_M3)

    def part(self, samples: Sequence[int] | NDArray[np.int64]) -> "Job":
        """Return the job of some of the samples, in the given order."""
        index = np.asarray(samples, np.int64)
        position = {sample: place for place, sample in enumerate(index.tolist())}
        return replace(
            self,
            features_MD=self.features_MD[index],
            labels_M=self.labels_M[index],
            ids_M=[self.ids_M[sample] for sample in index.tolist()],
            split_M=[self.split_M[sample] for sample in index.tolist()],
            contents_M3=self.contents_M3[index],
            failed={position[sample]: reason for sample, reason in self.failed.items() if sample in position},
        )

    def plan(self, **options: Any) -> Plan:
        given: dict[str, Any] = {
            "dataset": "insects/2024",
            "embedding": self.embedding,
            "ids_M": variable_width(self.ids_M),
            "labels_M": self.labels_M,
            "split_M": variable_width(self.split_M),
            "class_names": ("ant", "bee", "cat", "dog", "elk"),
            "metric": "mean_per_class",
            "feature_dim": self.features_MD.shape[1],
            "shard_rows": SHARD_ROWS,
        }
        return Plan(**(given | options))

    def writer(self, store: FeatureStore, *, blocks: range | None = None, **options: Any) -> FeatureWriter:
        return store.writer(self.plan(**options), provenance={"weights": "random, seed 0"}, blocks=blocks)

    def append(self, writer: FeatureWriter, samples: NDArray[np.int64]) -> int:
        """Offer these samples and append those that are needed as an extraction does; returns how many were."""
        needed = samples[writer.offer(samples, self.contents_M3[samples])]
        decoded = needed[~np.isin(needed, list(self.failed))]
        failed = {sample: self.failed[sample] for sample in needed.tolist() if sample in self.failed}
        writer.append(decoded, self.features_MD[decoded], failed)
        return len(needed)

    def write(self, store: FeatureStore, **options: Any) -> int:
        """Append all missing samples, in batches that do not end where blocks do; returns how many were needed."""
        with self.writer(store, **options) as writer:
            missing = writer.missing_samples
            return sum(self.append(writer, missing[start : start + 7]) for start in range(0, len(missing), 7))


def small_job() -> Job:
    rng = np.random.default_rng(0)
    embedding = Embedding(
        backbone="tiny.random",
        weights="fedcba9876543210",
        preprocess="00000000000000ff",
        decoder="pillow",
        precision="float32",
        dtype="float32",
    )
    return Job(
        embedding=embedding,
        features_MD=rng.normal(size=(NUM_ROWS, FEATURE_DIM)).astype(np.float32),
        labels_M=rng.integers(0, 5, size=NUM_ROWS),
        ids_M=[f"Größe/{row:03d}.jpg" for row in range(NUM_ROWS)],
        split_M=["train", "val", "test", "train", "train"] * 10,
        contents_M3=np.array([content_of(f"pixels of {row}".encode()) for row in range(NUM_ROWS)], np.uint64),
    )


def half_precision_job() -> Job:
    """Make the job with float16 features and several labels per sample."""
    job = small_job()
    labels_MK = np.random.default_rng(1).integers(0, 2, size=(NUM_ROWS, 5)).astype(np.uint8)
    return replace(
        job,
        embedding=replace(job.embedding, dtype="float16"),
        features_MD=job.features_MD.astype(np.float16),
        labels_M=labels_MK,
    )


def rows_path(store: FeatureStore) -> str:
    """Return the path of the one folder of rows that a store has."""
    (folder,) = store.catalog.rows_folders()
    return folder.path


def files(store: FeatureStore) -> dict[str, bytes]:
    """Return the content of every file of a local store, by its path below the store."""
    return {str(path.relative_to(store.path)): path.read_bytes() for path in store.path.rglob("*") if path.is_file()}


def wait_until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Return once the condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.01)


def array_files(store: FeatureStore) -> dict[str, bytes]:
    """Return the content of every file of a store's arrays, without records and groups, which hold times."""
    return {name: content for name, content in files(store).items() if is_of_an_array(name)}


def is_of_an_array(name: str) -> bool:
    """Return whether an object of a store is a chunk, or the metadata of an array."""
    metadata = tuple(f"/{array}/{layout.METADATA}" for array in (layout.FEATURES, *layout.COLUMNS))
    return "/c/" in name or name.endswith(metadata)
