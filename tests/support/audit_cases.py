"""Make sets of clustered features in memory, with copies among them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.feature_set import FeatureSet
from penultimate.store.format.contents import content_of


def clustered(
    num: int = 300,
    *,
    classes: int = 5,
    dims: int = 24,
    spread: float = 0.5,
    seed: int = 0,
    copies: Sequence[tuple[int, int]] = (),
) -> FeatureSet:
    """Return labelled features around one centre a class; for each (copy, original) the same image stands twice."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(classes, size=num)
    features_ND = rng.normal(size=(classes, dims))[labels_N] + spread * rng.normal(size=(num, dims))
    source_N = np.arange(num)
    for copy, original in copies:
        source_N[copy] = source_N[original]
    features = FeatureSet.of(
        features_ND[source_N].astype(np.float32),
        labels_N,
        rng.choice(["train", "val", "test"], size=num, p=[0.5, 0.1, 0.4]),
        ids_N=[f"{seed}/{row:04d}.jpg" for row in range(num)],
        class_names=[f"class {k}" for k in range(classes)],
        dataset=f"set {seed}",
    )
    return with_contents(features, [f"{seed}/{source}" for source in source_N])


def with_contents(features: FeatureSet, texts: Sequence[str]) -> FeatureSet:
    """Return the set with the content of each sample, which is told by a text."""
    contents_N3 = np.array([content_of(text.encode()) for text in texts], np.uint64)
    return replace(features, read_contents=lambda: contents_N3)


def edited(features: FeatureSet, **columns: NDArray[Any]) -> FeatureSet:
    """Return the set with other columns: ``labels_M``, ``split_M``, ``failed_M``, ``ids_M``."""
    changed = replace(features.read_columns(), **columns)
    return replace(features, read_columns=lambda: changed)
