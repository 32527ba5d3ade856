"""Transformations are scikit-learn's, are learnt from train alone, and go with the head."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import Normalizer, StandardScaler
from support.probe_cases import mixture

from penultimate.engine.probe.head import FORMAT, TRANSFORMING, Head
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.settings import ProbeResources, ProbeSettings
from penultimate.engine.probe.transform import FeatureTransform, TransformName
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet

FEATURES_ND, LABELS_N = mixture(300)
PATH = RegularizationPath.parse("0.1:100:4")


def stored(features_ND: np.ndarray = FEATURES_ND) -> FeatureSet:
    return FeatureSet.of(features_ND, LABELS_N, np.array(["train", "val", "test"])[np.arange(300) % 3])


@pytest.mark.parametrize(("name", "peer"), [("l2", Normalizer()), ("standardize", StandardScaler())])
def test_a_transformation_is_scikit_learns_however_train_is_batched(name: str, peer: Normalizer) -> None:
    batches = [FEATURES_ND[:7], FEATURES_ND[7:200], FEATURES_ND[200:]]
    found = FeatureTransform.fitted(name, lambda: batches).apply(FEATURES_ND)
    wanted = peer.fit(FEATURES_ND.astype(np.float64)).transform(FEATURES_ND.astype(np.float64))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)  # float32, of means 40 deviations from zero


def test_a_constant_feature_and_a_sample_of_zeros_stay_finite() -> None:
    features_ND = np.full((5, 3), 0.1, np.float32)
    features_ND[:, 2] = np.arange(5)
    standardized = FeatureTransform.fitted("standardize", lambda: [features_ND]).apply(features_ND)
    np.testing.assert_allclose(standardized[:, :2], 0, atol=1e-7)
    zeros = FeatureTransform(name="l2").apply(np.zeros((2, 3), np.float32))
    assert not zeros.any()


def test_none_returns_the_features_themselves() -> None:
    assert FeatureTransform.fitted("none", list).apply(FEATURES_ND) is FEATURES_ND


def test_what_was_not_learnt_is_refused() -> None:
    with pytest.raises(InputError, match="'standardize' with neither"):
        FeatureTransform(name="standardize")
    with pytest.raises(InputError, match="expected a transformation of none, l2, standardize"):
        FeatureTransform.of("whiten", {})


def test_standardize_learns_from_train_alone_also_for_the_refit() -> None:
    """Val and test far away change what is learnt if, and only if, somebody looks at them."""
    far_ND = FEATURES_ND.copy()
    far_ND[np.arange(300) % 3 != 0] += 1000
    settings = ProbeSettings(path=PATH, transform="standardize")
    near, far = (run_probe(stored(features_ND), settings) for features_ND in (FEATURES_ND, far_ND))
    np.testing.assert_array_equal(near.transform.mean_D, far.transform.mean_D)
    np.testing.assert_array_equal(near.transform.scale_D, far.transform.scale_D)
    assert near.transform.mean_D is not None
    np.testing.assert_allclose(near.transform.mean_D, FEATURES_ND[::3].mean(0), rtol=1e-5)


@pytest.mark.parametrize("name", ["l2", "standardize"])
def test_a_probe_of_transformed_features_is_the_probe_of_features_transformed_before(name: TransformName) -> None:
    train = FEATURES_ND[::3]
    before = FeatureTransform.fitted(name, lambda: [train]).apply(FEATURES_ND)
    within = run_probe(stored(), ProbeSettings(path=PATH, transform=name))
    outside = run_probe(stored(before), ProbeSettings(path=PATH))
    assert within.trial.chosen == pytest.approx(outside.trial.chosen, rel=1e-6)
    np.testing.assert_array_equal(within.trial.arrays["test_predictions"], outside.trial.arrays["test_predictions"])
    assert within.trial.id != outside.trial.id
    assert within.trial.settings["transform"] == name


def test_streamed_features_are_transformed_too() -> None:
    features_ND, labels_N = mixture(3000)
    features = FeatureSet.of(features_ND, labels_N, np.array(["train", "train", "val", "test"])[np.arange(3000) % 4])
    settings = ProbeSettings(path=RegularizationPath(l2=(10.0, 1.0)), transform="standardize")
    held = run_probe(features, settings).trial
    streamed = run_probe(features, settings, resources=ProbeResources(memory_bytes=100_000)).trial
    assert any("features are streamed" in note for note in streamed.notes)
    assert streamed.chosen["l2"] == held.chosen["l2"]
    for one, other in zip(streamed.history, held.history, strict=True):
        assert one["objective"] == pytest.approx(other["objective"], rel=2e-4)  # each within 1e-4


@pytest.mark.parametrize("name", ["none", "l2", "standardize"])
def test_a_head_transforms_what_it_scores_and_says_so_in_its_format(tmp_path: Path, name: TransformName) -> None:
    features = stored()
    run = run_probe(features, ProbeSettings(path=PATH, transform=name))
    assert run.probe is not None
    head = Head.of(run.probe, features.key, class_names=features.class_names, loss="softmax", transform=run.transform)
    head.save(tmp_path / "head.safetensors")
    loaded = Head.load(tmp_path / "head.safetensors")
    test = features.rows("test")
    np.testing.assert_array_equal(loaded.predict(features.features[test]), run.trial.arrays["test_predictions"])
    np.testing.assert_array_equal(loaded.scores(FEATURES_ND), head.scores(FEATURES_ND))
    written = (FORMAT if name == "none" else TRANSFORMING).encode()
    assert written in (tmp_path / "head.safetensors").read_bytes()
