"""A run sees the same images as the probe where both see k of each class."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.settings import ProbeSettings
from penultimate.engine.train.learner.losses import TrainingLoss
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.rows import training_rows
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.labels import ABSENT, PRESENT, UNCOUNTED


def probed_ids(features: FeatureSet, shots: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the ids of the samples that the probe is fitted to."""
    seen: list[NDArray[np.int64]] = []
    fit = FeatureReader.fit

    def watched(self: FeatureReader, rows: NDArray[np.int64], *rest: Any, **options: Any) -> Any:
        seen.append(rows)
        return fit(self, rows, *rest, **options)

    monkeypatch.setattr(FeatureReader, "fit", watched)
    run_probe(features, ProbeSettings(path=RegularizationPath(l2=(1.0,)), shots=shots), seed=seed)
    monkeypatch.undo()
    return set(features.ids[seen[0]].tolist())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_k_images_a_class_the_network_sees_those_that_the_probe_does(
    images: ImageSet, recipe: Recipe, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    features_ND = rng.normal(size=(len(images), 4)).astype(np.float32)
    features = FeatureSet.of(features_ND, images.labels_N, images.split_N, ids_N=images.ids_N)
    rows = training_rows(images, recipe.replace(shots=2, seed=seed))
    ids = set(images.ids_N[rows].tolist())
    assert ids == probed_ids(features, 2, seed, monkeypatch)
    # One that was not drawn could not be decoded, so the store has no row of it.
    others = [row for row in np.flatnonzero(images.split_N == "train").tolist() if row not in rows]
    kept = np.delete(np.arange(len(images)), others[0])
    without = FeatureSet.of(features_ND[kept], images.labels_N[kept], images.split_N[kept], ids_N=images.ids_N[kept])
    assert ids == probed_ids(without, 2, seed, monkeypatch)


def test_an_image_that_shows_a_class_only_in_difficult_objects_is_one_without_it(
    images: ImageSet, recipe: Recipe
) -> None:
    logits_BK = torch.randn((3, 2), generator=torch.Generator().manual_seed(0))
    marked, unmarked = torch.tensor([[PRESENT, UNCOUNTED]] * 3), torch.tensor([[PRESENT, ABSENT]] * 3)
    assert TrainingLoss("sigmoid")(logits_BK, marked) == TrainingLoss("sigmoid")(logits_BK, unmarked)
    labels_NK = np.eye(3, dtype=np.uint8)[images.labels_N]
    labels_NK[labels_NK[:, 1] == PRESENT, 1] = UNCOUNTED
    with pytest.raises(InputError, match="train of photos has no image of class 'dog'"):
        training_rows(replace(images, labels_N=labels_NK), recipe.replace(loss="sigmoid"))
