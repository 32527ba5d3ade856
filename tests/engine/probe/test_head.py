"""Heads are saved and loaded unchanged; other files are refused."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.probe_cases import mixture

from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.head import Head
from penultimate.engine.probe.path import RegularizationPath
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet

FEATURES_ND, LABELS_N = mixture()
KEY = FeatureSet.of(FEATURES_ND, LABELS_N, ["train"] * len(LABELS_N), backbone="tiny").key
(PROBE,) = fit_path(FEATURES_ND, LABELS_N, FitSettings(num_classes=4, path=RegularizationPath(l2=(1.0,))))


def head(loss: str = "softmax") -> Head:
    return Head.of(PROBE, KEY, class_names=("cat", "dog", "owl", "yak"), loss=loss)


def test_a_saved_head_scores_as_before_and_knows_its_features(tmp_path: Path) -> None:
    head().save(tmp_path / "head.safetensors")
    loaded = Head.load(tmp_path / "head.safetensors")
    np.testing.assert_array_equal(loaded.scores(FEATURES_ND), PROBE.scores(FEATURES_ND))
    assert loaded.class_names == ("cat", "dog", "owl", "yak")
    assert loaded.features["backbone"] == "tiny"
    assert loaded.l2 == 1.0


def test_any_reader_of_safetensors_finds_weight_and_bias(tmp_path: Path) -> None:
    head().save(tmp_path / "head.safetensors")
    tensors = load_file(tmp_path / "head.safetensors")
    np.testing.assert_array_equal(tensors["weight"], PROBE.weight_KD)
    np.testing.assert_array_equal(tensors["bias"], PROBE.bias_K)


def test_predictions_are_the_highest_score_and_probabilities_follow_the_loss() -> None:
    scores_NK = PROBE.scores(FEATURES_ND).astype(np.float64)
    assert (head().predict(FEATURES_ND) == scores_NK.argmax(1)).all()
    np.testing.assert_allclose(head().probabilities(FEATURES_ND).sum(1), 1)
    np.testing.assert_allclose(head("logistic").probabilities(FEATURES_ND), 1 / (1 + np.exp(-scores_NK)), atol=1e-12)
    with pytest.raises(InputError, match="no probabilities"):
        head("squared_hinge").probabilities(FEATURES_ND)


def test_a_temperature_divides_the_scores_and_a_head_of_the_first_format_has_none(tmp_path: Path) -> None:
    made = Head.of(PROBE, KEY, class_names=("cat", "dog", "owl", "yak"), loss="softmax", temperature=2.0)
    halved = Head(**{**{f.name: getattr(made, f.name) for f in fields(made)}, "temperature": 1.0})
    scores_NK = PROBE.scores(FEATURES_ND)
    np.testing.assert_allclose(
        made.probabilities(FEATURES_ND), halved.probabilities_of(scores_NK / np.float32(2)), rtol=1e-5
    )
    made.save(tmp_path / "head.safetensors")
    assert Head.load(tmp_path / "head.safetensors").temperature == 2.0
    with safe_open(tmp_path / "head.safetensors", "numpy") as file:
        about = json.loads(file.metadata()["head"])
    del about["temperature"]
    old = {"format": "penultimate head 1", "head": json.dumps(about)}
    save_file(load_file(tmp_path / "head.safetensors"), tmp_path / "old.safetensors", metadata=old)
    assert Head.load(tmp_path / "old.safetensors").temperature == 1.0
    with pytest.raises(InputError, match="a temperature > 0, got 0"):
        Head.of(PROBE, KEY, class_names=("cat", "dog", "owl", "yak"), loss="softmax", temperature=0)


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(N, 12\) of tiny"):
        head().scores(FEATURES_ND[:, :5])


@pytest.mark.parametrize("content", [b"", b"not a tensor"])
def test_a_file_that_is_no_head_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        Head.load(path)


def test_a_missing_file_and_tensors_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no head at"):
        Head.load(tmp_path / "none.safetensors")
    save_file({"weight": np.ones((2, 3), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="is no head"):
        Head.load(tmp_path / "other.safetensors")
