"""The main job on real images: extract -> store -> probe -> scoreboard, and the probe against an outside reference."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from penultimate.cli.main import run
from penultimate.engine.probe.fit import fit_path
from penultimate.engine.probe.fit_settings import FitSettings
from penultimate.engine.probe.path import RegularizationPath
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial_log import TrialLog

CLASSES = ("airplanes", "bonsai", "chair", "crab", "ewer", "ketch")
IMAGES_PER_CLASS = 15


@pytest.fixture(scope="module")
def features(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    """EfficientNet-Lite0 features of 90 Caltech-101 photographs, through the command line."""
    folder = tmp_path_factory.mktemp("real")
    for name in CLASSES:
        (folder / "six" / name).mkdir(parents=True)
        source = data_folder / "caltech101" / "101_ObjectCategories" / name
        for path in sorted(source.iterdir())[:IMAGES_PER_CLASS]:
            (folder / "six" / name / path.name).symlink_to(path)
    command = ["extract", str(folder / "six"), "--store", str(folder / "s.zarr"), "--model", "tf_efficientnet_lite0"]
    assert run([*command, "--weights", "package"]) == 0
    store = FeatureStore(folder / "s.zarr")
    return store.read(store.keys()[0])


@pytest.mark.slow
@pytest.mark.parametrize("l2", [1e5, 1e2, 1.0, 1e-2, 1e-4, 1e-6])
def test_objective_on_real_features_is_that_of_scikit_learn_at_tight_tolerance(features: FeatureSet, l2: float) -> None:
    rows = features.rows("train", "val")
    X_ND, y_N = features.features[rows].astype(np.float64), features.labels[rows]
    (probe,) = fit_path(
        features.features[rows], y_N, FitSettings(num_classes=len(CLASSES), path=RegularizationPath(l2=(l2,)))
    )
    theirs = LogisticRegression(C=1 / l2, tol=1e-12, solver="newton-cg", max_iter=10_000).fit(X_ND, y_N)
    log_probabilities_NK = theirs.predict_log_proba(X_ND)
    loss = -log_probabilities_NK[np.arange(len(y_N)), y_N].sum() + l2 / 2 * (theirs.coef_**2).sum()
    assert probe.report.certified
    assert probe.report.objective == pytest.approx(loss / len(y_N), rel=1e-6)


@pytest.mark.slow
def test_the_main_job_tells_a_trained_network_from_a_random_one(
    features: FeatureSet, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = features.provenance["images"]["root"].replace("/six", "/s.zarr")
    images = features.provenance["images"]["root"]
    assert run(["extract", images, "--store", store, "--model", "tf_efficientnet_lite0", "--weights", "random"]) == 0
    trials = str(tmp_path / "trials")
    for _ in range(2):  # the second time nothing is fitted
        assert run(["probe", store, "--trials", trials]) == 0
    assert len(TrialLog(trials).trials()) == 2
    capsys.readouterr()
    assert run(["show", trials, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"dataset", "backbone", "method", "metric", "value", "l2", "n_test", "converged"} <= set(rows[0])
    assert [row["backbone"] for row in rows] == ["tf_efficientnet_lite0", "tf_efficientnet_lite0.random0"]
    assert rows[0]["value"] > 0.9 > rows[1]["value"]
    assert all(row["converged"] and row["n_test"] == 18 for row in rows)
