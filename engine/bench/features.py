"""Draw features for benchmarks, and write them into a store as an extraction does."""

import numpy as np
from numpy.typing import NDArray

from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.layout import shard_rows_for, variable_width
from penultimate.store.format.slices import slice_if_contiguous
from penultimate.store.key import Embedding
from penultimate.store.plan import Plan

# Shapes: N samples, D feature dimensions, K classes.

EMBEDDING = Embedding(
    backbone="drawn", weights="0" * 16, preprocess="0" * 16, decoder="none", precision="float32", dtype="float32"
)
"""Embedding of features that no network made."""

_PIECE_ROWS = 65_536

_BATCH_ROWS = 256
"""Number of rows that are appended at once, as of one pass on a GPU."""


def pooled(num_rows: int, dim: int) -> NDArray[np.float32]:
    """Draw (N, D) like pooled activations: not negative, a third of them zero. No codec depends on the values."""
    values_ND = np.random.default_rng(0).normal(0.4, 1.0, size=(num_rows, dim)).astype(np.float32)
    return np.maximum(values_ND, 0.0, out=values_ND)


def overlapping_classes(
    num_rows: int, dim: int, num_classes: int, *, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw features (N, D) of classes that overlap, and labels (N,).

    Their spectrum falls as 1/rank, as that of networks' features does.
    """
    rng = np.random.default_rng(seed)
    labels_N = rng.permutation(np.arange(num_rows) % num_classes)
    scale_D = 1 / np.sqrt(1 + np.arange(dim))
    centres_KD = 1.5 * rng.normal(size=(num_classes, dim)) * (rng.random((num_classes, dim)) < 0.1)
    features_ND = rng.standard_normal((num_rows, dim), dtype=np.float32)
    for start in range(0, num_rows, _PIECE_ROWS):  # of ImageNet's size there is not room for several
        rows = slice(start, start + _PIECE_ROWS)
        features_ND[rows] = (features_ND[rows] + centres_KD[labels_N[rows]]) * scale_D
    return features_ND, labels_N


def drawn_contents(num_rows: int) -> NDArray[np.uint64]:
    """Draw content digests (N, 3), as files of 10 kB would have."""
    contents_N3 = np.random.default_rng(0).integers(1, 2**63, (num_rows, 3)).astype(np.uint64)
    contents_N3[:, 0] = 10_000
    return contents_N3


def drawn_plan(
    labels_N: NDArray[np.int64], dim: int, *, splits: tuple[str, ...] = ("train",), prefix: str = ""
) -> Plan:
    """Return a plan of samples called ``<prefix><number>``, whose ``splits`` take turns."""
    num_rows = len(labels_N)
    return Plan(
        dataset="bench",
        embedding=EMBEDDING,
        ids_M=variable_width([f"{prefix}{row:08d}" for row in range(num_rows)]),
        labels_M=labels_N,
        split_M=variable_width([splits[row % len(splits)] for row in range(num_rows)]),
        class_names=tuple(f"{label}" for label in range(int(labels_N.max()) + 1)),
        metric="top1",
        feature_dim=dim,
        shard_rows=shard_rows_for(num_rows),
    )


def write_features(
    store: FeatureStore, plan: Plan, features_ND: NDArray[np.float32], contents_N3: NDArray[np.uint64]
) -> int:
    """Write features into a store as an extraction does; return the number of rows that it needed."""
    num_written = 0
    with store.writer(plan, provenance={}) as writer:
        for samples in np.array_split(writer.missing_samples, -(-plan.num_samples // _BATCH_ROWS)):
            needed = samples[writer.offer(samples, contents_N3[samples])]
            writer.append(needed, features_ND[slice_if_contiguous(needed)])  # as a network's: made, not gathered
            num_written += len(needed)
    return num_written
