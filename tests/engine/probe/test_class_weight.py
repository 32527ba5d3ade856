"""Balanced class weights are scikit-learn's, and reach the fit in memory, the streamed one and the refit."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight
from support.probe_cases import mixture

from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.reader import balanced_weights
from penultimate.engine.probe.settings import ProbeResources, ProbeSettings
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet

L2 = 3.0


def unbalanced() -> FeatureSet:
    """Return features of four classes, of which the last has a tenth of the samples of the first."""
    features_ND, labels_N = mixture(4000, 8, apart=0.5)
    kept = np.flatnonzero(np.random.default_rng(1).random(4000) < np.array([1, 0.6, 0.3, 0.1])[labels_N])
    split = np.array(["train", "train", "val", "test"])[np.arange(len(kept)) % 4]
    return FeatureSet.of(features_ND[kept], labels_N[kept], split)


def test_balanced_weights_are_scikit_learns_also_where_a_class_has_no_samples() -> None:
    labels_N = np.array([0, 0, 0, 2, 2, 5])
    np.testing.assert_allclose(balanced_weights(labels_N), compute_sample_weight("balanced", labels_N))
    with pytest.raises(InputError, match="needs one class a sample"):
        balanced_weights(np.eye(3, dtype=np.uint8))


def test_the_probe_is_scikit_learns_with_balanced_classes_on_train_and_on_train_and_val() -> None:
    features = unbalanced()
    settings = ProbeSettings(path=RegularizationPath(l2=(L2,)), class_weight="balanced", tol=1e-7)
    run = run_probe(features, settings)
    assert run.probe is not None
    rows, test = features.rows("train", "val"), features.rows("test")
    peer = LogisticRegression(C=1 / L2, class_weight="balanced", tol=1e-8, max_iter=10_000)
    peer.fit(features.features[rows].astype(np.float64), features.labels[rows])
    np.testing.assert_allclose(run.probe.weight_KD, peer.coef_, atol=2e-4)
    plain = run_probe(features, ProbeSettings(path=RegularizationPath(l2=(L2,)))).trial
    labels_N = features.labels[test]
    assert (run.trial.arrays["test_predictions"] == 3).sum() > (plain.arrays["test_predictions"] == 3).sum()
    assert (labels_N == 3).any()
    assert run.trial.settings["class_weight"] == "balanced"
    assert run.trial.id != plain.id


def test_streamed_features_are_weighted_too() -> None:
    features = unbalanced()
    settings = ProbeSettings(path=RegularizationPath(l2=(30.0, L2)), class_weight="balanced")
    held = run_probe(features, settings).trial
    streamed = run_probe(features, settings, resources=ProbeResources(memory_bytes=90_000)).trial
    assert any("features are streamed" in note for note in streamed.notes)
    assert streamed.converged
    for one, other in zip(streamed.history, held.history, strict=True):
        assert one["objective"] == pytest.approx(other["objective"], rel=2e-4)  # each within 1e-4
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)


def test_several_labels_a_sample_are_refused() -> None:
    features_ND, _ = mixture(90)
    labels = (features_ND[:, :3] > 2).astype(np.uint8)
    features = FeatureSet.of(features_ND, labels, np.array(["train", "val", "test"])[np.arange(90) % 3], metric="map11")
    with pytest.raises(InputError, match="needs one class a sample, got a label matrix; leave it away"):
        run_probe(features, ProbeSettings(path=RegularizationPath(l2=(L2,)), class_weight="balanced"))
