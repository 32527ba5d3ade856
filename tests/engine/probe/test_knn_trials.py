"""A kNN trial is a trial like any other: chosen on val, scored once on test, found again by its id."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from support.probe_cases import mixture

import penultimate
from penultimate.engine.analysis.scoreboard import scoreboard
from penultimate.engine.probe.protocol import planned_trial_id, run_probe
from penultimate.engine.probe.settings import KnnSettings, ProbeGrid, ProbeResources
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.trials.trial_log import TrialLog

SETTINGS = KnnSettings(k=(1, 5, 20), temperatures=(0.05, 0.5))


def stored(rows: int = 600, *, several: bool = False) -> FeatureSet:
    features_ND, labels_N = mixture(rows, 10, 6)
    labels = (labels_N[:, None] % np.array([2, 3, 5]) == 0).astype(np.uint8) if several else labels_N
    split_N = np.array(["train", "val", "test"])[np.arange(rows) % 3]
    return FeatureSet.of(features_ND, labels, split_N, metric="map11" if several else "top1")


def test_k_and_temperature_are_chosen_on_val_and_test_votes_come_from_train_and_val() -> None:
    features = stored()
    trial = run_probe(features, SETTINGS).trial
    best = max(row["val"] for row in trial.history)
    first = next(row for row in trial.history if row["val"] == best)
    assert trial.chosen == {"k": first["k"], "vote_temperature": first["vote_temperature"]}
    bank, test = features.rows("train", "val"), features.rows("test")
    reference = KNeighborsClassifier(
        first["k"], metric="cosine", weights=lambda d: np.exp(-d / first["vote_temperature"])
    ).fit(features.features[bank].astype(float), features.labels[bank])
    predicted = reference.predict(features.features[test].astype(float))
    # Two classes' votes may be equal up to rounding.
    assert (trial.arrays["test_predictions"] == predicted).mean() > 0.99
    assert trial.method == "knn"
    assert trial.converged


def test_the_readout_is_chosen_together_with_k_and_its_trial_is_the_chosen_ones_own() -> None:
    good = stored()
    noise_ND = np.random.default_rng(0).normal(size=good.features.shape).astype(np.float32)
    noisy = FeatureSet.of(good.features + 2 * noise_ND, good.labels, good.split, metric="top1")
    sets = [replace(each, key=replace(each.key, readout=name)) for each, name in ((noisy, "a"), (good, "b"))]
    trial, alone = run_probe(sets, SETTINGS).trial, run_probe(good, SETTINGS).trial
    assert trial.chosen == {**alone.chosen, "readout": "b"}
    assert (trial.method, trial.readout, trial.settings["readouts"]) == ("knn", "chosen", ["a", "b"])
    assert (trial.value, trial.metrics) == (alone.value, alone.metrics)
    assert [row["readout"] for row in trial.history] == ["a"] * 6 + ["b"] * 6
    assert trial.id == planned_trial_id([each.key for each in sets], SETTINGS, multi_label=False, metric="top1")


def test_little_memory_and_other_blocks_give_the_same_trial() -> None:
    whole = run_probe(stored(), SETTINGS).trial
    streamed = run_probe(stored(), SETTINGS, resources=ProbeResources(memory_bytes=1000)).trial
    assert streamed.id == whole.id
    assert streamed.value == pytest.approx(whole.value, abs=1 / 200)
    assert streamed.chosen == whole.chosen


def test_its_id_is_known_before_and_does_not_depend_on_the_order_of_the_grid() -> None:
    features = stored()
    other = KnnSettings(k=(20, 1, 5, 5), temperatures=(0.5, 0.05))
    for settings in (SETTINGS, other):
        wanted = planned_trial_id(features.key, settings, multi_label=False, metric="top1")
        assert wanted == run_probe(features, SETTINGS).trial.id


def test_several_labels_are_scored_by_their_own_metric() -> None:
    trial = run_probe(stored(several=True), SETTINGS).trial
    assert trial.metric == "map11"
    assert np.isfinite(trial.arrays["test_scores"]).all()
    assert trial.value > 0.5


def test_with_shots_the_bank_is_those_images_alone() -> None:
    trial = run_probe(stored(), SETTINGS.replace(shots=1)).trial
    assert trial.settings["shots"] == 1
    assert "k = 20 is more than the 6 training images, which then all vote" in trial.notes


def test_the_scoreboard_has_it_beside_the_probe_and_the_log_finds_it_again(tmp_path: Path) -> None:
    features = stored()
    for settings in ({"l2": "0.1:1:2"}, {"method": "knn", "k": 5}) * 2:
        penultimate.probe(features, trials=tmp_path / "trials", **settings)
    log = TrialLog(tmp_path / "trials")
    trials = [replace(trial, features=dict(trial.features)) for trial in log.trials()]
    assert [row.method for row in scoreboard(trials).rows] == ["knn", "probe"]
    assert [path.stem for path in (tmp_path / "trials" / "heads").iterdir()] == [
        trial.id for trial in trials if trial.method == "probe"
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "knn", "l2": "0.1:1:2"}, "l2 is of the method probe, and the method is knn"),
        ({"method": "knn", "tol": 1e-3}, "tol is of the method probe"),
        ({"k": [3]}, "k is of the method knn, and the method is probe"),
        ({"method": "knn", "k": [0]}, "k.0: "),
        ({"method": "knn", "temperatures": [0.0]}, "temperatures.0: "),
        ({"method": "nearest"}, "method: "),
    ],
)
def test_options_of_another_method_are_refused_in_one_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        ProbeGrid.of(given)
    assert "\n" not in str(refused.value)
