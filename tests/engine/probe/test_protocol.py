"""run_probe: one Trial a FeatureSet, chosen on val, scored once on test."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss
from support.processors import pretend

from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import planned_trial_id, run_probe
from penultimate.engine.probe.settings import ProbeSettings
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet

PATH = RegularizationPath.parse("1e-3:1e3:7")


def stored(rows: int = 300, *, several: bool = False) -> FeatureSet:
    rng = np.random.default_rng(0)
    labels_N = rng.integers(3, size=rows)
    features_ND = (rng.normal(size=(rows, 8)) + 3 * np.eye(8)[labels_N]).astype(np.float32)
    split_N = np.array(["train", "val", "test"])[np.arange(rows) % 3]
    labels = (features_ND[:, :3] > 1.5).astype(np.uint8) if several else labels_N
    return FeatureSet.of(features_ND, labels, split_N, metric="map11" if several else "mean_per_class")


def test_the_chosen_strength_is_the_strongest_with_the_best_val_score() -> None:
    trial = run_probe(stored(), ProbeSettings(path=PATH)).trial
    on_train = [row for row in trial.history if row["fitted_on"] == "train"]
    best = max(row["val"] for row in on_train)
    assert trial.chosen["l2"] == next(row["l2"] for row in on_train if row["val"] == best)
    assert trial.metrics["val"]["mean_per_class"] == best
    assert trial.converged


def test_the_history_has_train_loss_and_norm_of_every_strength() -> None:
    features = stored()
    trial = run_probe(features, ProbeSettings(path=PATH)).trial
    rows = features.rows("train")
    settings = FitSettings(num_classes=3, path=PATH)
    probes = fit_path(features.features[rows], features.labels[rows], settings)
    on_train = [row for row in trial.history if row["fitted_on"] == "train"]
    for row, probe in zip(on_train, probes, strict=True):
        assert row["weight_norm"] == pytest.approx(np.linalg.norm(probe.weight_KD), rel=1e-3)
        loss = log_loss(features.labels[rows], softmax(probe.scores(features.features[rows]), axis=1))
        assert row["train_loss"] == pytest.approx(loss, rel=1e-3, abs=1e-6)
    norms = [row["weight_norm"] for row in on_train]
    assert norms == sorted(norms)  # weaker strengths, larger weights


def test_the_value_is_what_the_kept_predictions_score() -> None:
    trial = run_probe(stored(), ProbeSettings(path=PATH)).trial
    labels_N, predicted_N = trial.arrays["test_labels"], trial.arrays["test_predictions"]
    by_class = [np.mean(predicted_N[labels_N == k] == k) for k in range(3)]
    assert trial.value == pytest.approx(np.mean(by_class), abs=1e-12)
    assert trial.value > 0.7  # classes 4 deviations apart


def test_several_labels_a_sample_are_fitted_one_against_rest_and_keep_scores() -> None:
    trial = run_probe(stored(several=True), ProbeSettings(path=PATH)).trial
    assert trial.settings["loss"] == "logistic"
    assert trial.arrays["test_scores"].shape == (100, 3)
    assert trial.value > 0.9  # the labels are thresholds of single features


def test_a_strength_is_chosen_by_any_score_and_the_value_stays_the_metrics() -> None:
    features = stored()
    for choose_by, sign in (("log_loss", -1), ("auroc", 1), ("macro_f1", 1), ("ece", -1), ("top1", 1)):
        trial = run_probe(features, ProbeSettings(path=PATH, choose_by=choose_by)).trial
        on_train = [row for row in trial.history if row["fitted_on"] == "train"]
        best = max(on_train, key=lambda row: sign * row[f"val_{choose_by}"])
        assert trial.chosen["l2"] == best["l2"]
        assert trial.metrics["val"][choose_by] == best[f"val_{choose_by}"]
        assert trial.metric == "mean_per_class"
        assert trial.value == trial.metrics["test"]["mean_per_class"]


def test_a_score_that_the_labels_or_the_loss_do_not_allow_is_refused() -> None:
    with pytest.raises(InputError, match="top1 does not suit these labels"):
        run_probe(stored(several=True), ProbeSettings(path=PATH, choose_by="top1"))
    with pytest.raises(InputError, match="brier needs probabilities"):
        run_probe(stored(), ProbeSettings(path=PATH, loss="squared_hinge", choose_by="brier"))


def test_the_temperature_is_fitted_on_val_and_reported_before_and_after() -> None:
    trial = run_probe(stored(), ProbeSettings(path=PATH)).trial
    assert trial.metrics["val_calibrated"]["log_loss"] <= trial.metrics["val"]["log_loss"]
    assert set(trial.metrics["test_calibrated"]) == {"log_loss", "brier", "ece"}
    # The kept scores are float16: three digits of a logit of up to 10.
    kept = trial.arrays["test_class_scores"].astype(float) / trial.chosen["temperature"]
    assert log_loss(trial.arrays["test_labels"], softmax(kept, axis=1)) == pytest.approx(
        trial.metrics["test_calibrated"]["log_loss"], abs=2e-3
    )
    hinge = run_probe(stored(), ProbeSettings(path=PATH, loss="squared_hinge")).trial
    assert "temperature" not in hinge.chosen
    assert {"log_loss", "brier", "ece"}.isdisjoint(hinge.metrics["test"])
    assert hinge.metrics["test"]["auroc"] > 0.8


def test_the_id_is_known_before_the_run() -> None:
    features = stored()
    wanted = planned_trial_id(features.key, ProbeSettings(path=PATH), multi_label=False, metric=features.metric)
    assert wanted == run_probe(features, ProbeSettings(path=PATH)).trial.id


def readouts(rows: int = 300) -> list[FeatureSet]:
    """Return three readouts of one backbone: ``weak`` is noise on val, and the best of all on test."""
    rng = np.random.default_rng(1)
    labels_N = rng.integers(3, size=rows)
    split_N = np.array(["train", "val", "test"])[np.arange(rows) % 3]
    found: list[FeatureSet] = []
    for readout, apart, dim in (("weak", 1.0, 4), ("good", 2.5, 8), ("twice", 2.5, 16)):
        centres_KD = apart * np.eye(dim)[:3]
        features_ND = (rng.normal(size=(rows, dim)) + centres_KD[labels_N]).astype(np.float32)
        if readout == "weak":
            features_ND[split_N == "test", :3] += 9 * np.eye(3, dtype=np.float32)[labels_N[split_N == "test"]]
        if readout == "twice":
            features_ND = np.concatenate([found[1].features, found[1].features], axis=1)
        features = FeatureSet.of(features_ND, labels_N, split_N)
        found.append(replace(features, key=replace(features.key, readout=readout)))
    return found


def test_the_readout_is_chosen_on_val_together_with_the_strength_and_test_is_scored_by_it_alone() -> None:
    sets = readouts()
    settings = ProbeSettings(path=PATH)
    alone = {each.key.readout: run_probe(each, settings).trial for each in sets}
    run = run_probe(sets, settings)
    trial = run.trial
    assert max(alone, key=lambda readout: alone[readout].value) == "weak"  # which whoever looked at test would take
    assert trial.chosen == {**alone["good"].chosen, "readout": "good"}
    assert (run.key.readout, trial.readout, trial.settings["readouts"]) == ("good", "chosen", ["good", "twice", "weak"])
    assert (trial.value, trial.metrics) == (alone["good"].value, alone["good"].metrics)
    np.testing.assert_array_equal(trial.arrays["test_predictions"], alone["good"].arrays["test_predictions"])
    on_train = [(row["readout"], row["l2"]) for row in trial.history if row["fitted_on"] == "train"]
    assert sorted(on_train) == sorted((readout, l2) for readout in alone for l2 in PATH.l2)


def test_the_score_by_which_strengths_are_chosen_chooses_the_readout_too() -> None:
    """``far`` tells classes apart, but has few val images far on the wrong side: errors that are dear to log loss."""
    mild = stored()
    mild = FeatureSet.of(mild.features - 1.5 * np.eye(8, dtype=np.float32)[mild.labels], mild.labels, mild.split)
    far_ND, wrong = mild.features + 6 * np.eye(8, dtype=np.float32)[mild.labels], mild.rows("val")[::25]
    far_ND[wrong] += 200 * np.eye(8, dtype=np.float32)[(mild.labels[wrong] + 1) % 3]
    far = FeatureSet.of(far_ND, mild.labels, mild.split)
    mild, far = (replace(each, key=replace(each.key, readout=name)) for each, name in ((mild, "mild"), (far, "far")))
    by_metric, by_loss = (
        run_probe([mild, far], ProbeSettings(path=PATH, choose_by=choose_by)).trial for choose_by in (None, "log_loss")
    )
    assert (by_metric.chosen["readout"], by_loss.chosen["readout"]) == ("far", "mild")
    on_train = [row for row in by_loss.history if row["fitted_on"] == "train"]
    best = min(on_train, key=lambda row: row["val_log_loss"])
    assert (best["readout"], best["l2"]) == ("mild", by_loss.chosen["l2"])
    assert by_loss.metrics["val"]["log_loss"] == best["val_log_loss"]
    assert by_loss.metrics["val_calibrated"]["log_loss"] <= best["val_log_loss"]


def test_a_choice_is_another_trial_than_any_readouts_own_and_its_id_is_known_before_the_run() -> None:
    sets = readouts(rows=90)
    settings = ProbeSettings(path=PATH)
    keys = [each.key for each in sets]
    run = run_probe(sets, settings)
    for order in (keys, keys[::-1]):
        assert planned_trial_id(order, settings, multi_label=False, metric="top1") == run.trial.id
    fewer = [[key] for key in keys] + [keys[:2]]
    others = [planned_trial_id(each, settings, multi_label=False, metric="top1") for each in fewer]
    assert run.trial.id not in others
    assert len(set(others)) == len(others)


def test_readouts_of_other_images_are_not_chosen_among() -> None:
    whole, other, _ = readouts()
    fewer = other.rows("train", "val", "test")[1:]
    less = FeatureSet.of(other.features[fewer], other.labels[fewer], other.split[fewer])
    with pytest.raises(InputError, match=r"features of other images .* extract both in one call"):
        run_probe([whole, replace(less, key=other.key)], ProbeSettings(path=PATH))


@pytest.mark.capability
def test_a_trial_records_the_processor_and_the_class_it_was_taken_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "amx", switch="avx2")
    lowered = run_probe(stored(), ProbeSettings(path=PATH)).trial
    assert (lowered.hardware["cpu_class"], lowered.hardware["cpu_class_actual"]) == ("avx2", "amx")
    pretend(monkeypatch, "amx")
    own = run_probe(stored(), ProbeSettings(path=PATH)).trial
    assert (own.hardware["cpu_class"], own.hardware["cpu_class_actual"]) == ("amx", "amx")
    assert own.id == lowered.id  # a smaller machine finds the same trial


def test_a_missing_split_is_refused_with_the_counts() -> None:
    features = FeatureSet.of(np.ones((4, 2), np.float32), np.array([0, 1, 0, 1]), ["train", "train", "test", "test"])
    with pytest.raises(InputError, match=r"no samples in val.*2 train, 0 val, 2 test"):
        run_probe(features, ProbeSettings(path=PATH))


def test_one_class_alone_is_refused_whatever_the_loss() -> None:
    features = FeatureSet.of(np.ones((4, 2), np.float32), np.array([1, 1, 0, 1]), ["train", "train", "val", "test"])
    for loss in ("softmax", "logistic", "squared_hinge"):
        with pytest.raises(InputError, match=r"all training samples .* are of one class, '1'; a classifier needs two"):
            run_probe(features, ProbeSettings(path=PATH, loss=loss))


def test_samples_without_a_label_are_neither_fitted_nor_scored() -> None:
    whole = stored()
    labels_N = whole.labels.copy()
    labels_N[::10] = -1
    known = labels_N >= 0
    features_ND = np.asarray(whole.features)
    bare = FeatureSet.of(features_ND, labels_N, whole.split, ids_N=whole.ids, class_names=whole.class_names)
    without = FeatureSet.of(
        features_ND[known], labels_N[known], whole.split[known], ids_N=whole.ids[known], class_names=whole.class_names
    )
    some, same = (run_probe(features, ProbeSettings(path=PATH)).trial for features in (bare, without))
    assert some.value == same.value
    assert some.arrays["test_ids"].tolist() == same.arrays["test_ids"].tolist()


def test_a_split_of_unlabelled_samples_says_so() -> None:
    features = FeatureSet.of(np.ones((4, 2), np.float32), np.array([0, 1, 0, -1]), ["train", "train", "val", "test"])
    with pytest.raises(InputError, match=r"no samples in test.*images of test have no labels: extract train's folder"):
        run_probe(features, ProbeSettings(path=PATH))


def test_samples_whose_features_are_not_finite_are_named_by_id() -> None:
    features_ND = np.ones((4, 2), np.float32)
    features_ND[1, 0] = np.nan
    features = FeatureSet.of(
        features_ND,
        np.array([0, 1, 0, 1]),
        ["train", "train", "val", "test"],
        ids_N=["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
    )
    with pytest.raises(InputError, match=r"b\.jpg"):
        run_probe(features, ProbeSettings(path=PATH))
