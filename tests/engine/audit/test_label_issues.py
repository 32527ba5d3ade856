"""Labels that a probe contradicts, on sets in which it is known which are wrong."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from support.audit_cases import clustered, edited

from penultimate.engine.audit.audit import Audit, audit_set
from penultimate.engine.audit.label_issues import folds, probe_to_check_with
from penultimate.engine.audit.settings import AuditSettings
from penultimate.engine.probe.api import probe
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.settings import ProbeSettings
from penultimate.store.errors import UnavailableError
from penultimate.store.feature_set import FeatureSet

pytest.importorskip("cleanlab")


def _audit(features: FeatureSet, **settings: object) -> Audit:
    return audit_set(features, [], probe(features, l2="0.01:10:3"), AuditSettings.of(settings))


def _flipped(features: FeatureSet, num: int, *, seed: int = 0) -> tuple[FeatureSet, set[str]]:
    """Return the set with ``num`` wrong labels, and their ids."""
    rng = np.random.default_rng(seed)
    labels_N = features.labels.copy()
    wrong = rng.choice(len(labels_N), num, replace=False)
    classes = len(features.class_names)
    labels_N[wrong] = (labels_N[wrong] + rng.integers(1, classes, size=num)) % classes
    return edited(features, labels_M=labels_N), set(features.ids[wrong].tolist())


def test_planted_errors_are_found_in_every_split_with_the_right_suggestion() -> None:
    features, wrong = _flipped(clustered(num=600, spread=0.3), 30)
    issues = _audit(features).label_issues
    found = set(issues["image"])
    assert len(found & wrong) >= 28
    assert len(found - wrong) <= 2
    right = dict(zip(clustered(num=600).ids.tolist(), clustered(num=600).class_texts(), strict=True))
    planted = issues[issues["image"].isin(wrong)]
    assert [right[image] for image in planted["image"]] == planted["suggested"].tolist()
    assert set(planted["split"]) == {"train", "val", "test"}
    assert issues["p_label"].is_monotonic_increasing
    assert (issues["p_label"] < issues["p_suggested"]).all()
    assert issues["p_suggested"].between(0, 1).all()


def test_clean_labels_raise_hardly_a_doubt() -> None:
    found = _audit(clustered(num=600, spread=0.3))
    assert len(found.label_issues) <= 2
    assert found.summary["labels_checked"] == 600


def test_a_copy_with_the_same_wrong_label_does_not_vouch_for_it() -> None:
    """With the copy in another fold, an almost unregularised probe would have learned the wrong label by heart."""
    features, wrong = _flipped(clustered(num=400, dims=200, copies=[(row, row + 200) for row in range(30)]), 0)
    labels_N = features.labels.copy()
    labels_N[:30] = labels_N[200:230] = (labels_N[200:230] + 1) % 5
    doubled = edited(features, labels_M=labels_N)
    ids = set(features.ids[[*range(30), *range(200, 230)]].tolist())
    assert not wrong
    assert len(ids & set(_audit(doubled).label_issues["image"])) >= 50


def test_folds_keep_groups_together_and_divide_every_class_evenly() -> None:
    rng = np.random.default_rng(0)
    labels_L = rng.integers(7, size=1_000)
    group_L = np.arange(1_000)
    twins = rng.choice(1_000, (50, 2), replace=False)
    group_L[twins[:, 1]] = group_L[twins[:, 0]]
    fold_L = folds(labels_L, group_L, 5, seed=0)
    assert (fold_L[twins[:, 1]] == fold_L[twins[:, 0]]).all()
    alone = folds(labels_L, np.arange(1_000), 5, seed=0)
    for k in range(7):
        counts = np.bincount(alone[labels_L == k], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert (folds(labels_L, group_L, 5, seed=1) != fold_L).any()


def test_a_class_of_one_image_is_not_judged_and_that_is_said() -> None:
    features = clustered(num=200)
    labels_N = features.labels.copy()
    labels_N[labels_N == 4] = 3
    labels_N[np.flatnonzero(features.split == "train")[0]] = 4
    found = _audit(edited(features, labels_M=labels_N))
    assert found.summary["labels_checked"] == 199
    assert any(note.startswith("class 4 has one image") for note in found.notes)


def test_images_without_a_label_are_not_judged() -> None:
    features = clustered(num=200)
    labels_N = features.labels.copy()
    labels_N[:20] = -1
    assert _audit(edited(features, labels_M=labels_N)).summary["labels_checked"] == 180


def test_without_a_probe_of_these_features_the_notes_say_so() -> None:
    features = clustered(num=200)
    trials = probe(features, l2="0.1:1:2", losses=["squared_hinge"])
    found = audit_set(features, [], trials, AuditSettings())
    assert found.summary["labels_checked"] is None
    assert any("no softmax probe of these features" in note for note in found.notes)
    assert len(found.scores) == 1


def test_a_probe_that_chose_this_readout_checks_its_labels_and_none_that_chose_another() -> None:
    good = clustered(num=300)
    rng = np.random.default_rng(0)
    noise_ND = rng.normal(size=good.features.shape).astype(np.float32)
    noise = FeatureSet.of(noise_ND, good.labels, good.split, ids_N=good.ids, class_names=good.class_names)
    noise = replace(noise, key=good.key)
    sets = [replace(each, key=replace(each.key, readout=name)) for each, name in ((good, "cls"), (noise, "stage:0"))]
    trial = run_probe(sets, ProbeSettings(path=RegularizationPath.parse("0.1:1:2"))).trial
    assert trial.chosen["readout"] == "cls"
    assert [probe_to_check_with(each, [trial]) for each in sets] == [trial, None]
    assert audit_set(sets[0], [], [trial], AuditSettings()).summary["labels_checked"] == 300


def test_without_cleanlab_it_is_asked_for_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    features = clustered(num=60)
    trials = probe(features, l2="0.1:1:2")
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setattr("penultimate.engine.audit.label_issues.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"penultimate\[audit\].*--no-labels"):
        audit_set(features, [], trials, AuditSettings())
    assert audit_set(features, [], trials, AuditSettings(labels=False)).summary["labels_checked"] is None
