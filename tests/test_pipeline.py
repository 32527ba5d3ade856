"""The main job runs on real images, extract -> store -> probe -> scoreboard, and the probe matches scikit-learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from penultimate.cli.main import run
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.path import RegularizationPath
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial_log import TrialLog

CLASSES = ("airplanes", "bonsai", "chair", "crab", "ewer", "ketch")
IMAGES_PER_CLASS = 15


@pytest.fixture(scope="module")
def features(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    """Extract EfficientNet-Lite0 features of 90 Caltech-101 photographs, through the command line."""
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
@pytest.mark.capability
@pytest.mark.parametrize("l2", [1e5, 1e2, 1.0, 1e-2, 1e-4, 1e-6])
def test_objective_on_real_features_is_that_of_scikit_learn_at_tight_tolerance(features: FeatureSet, l2: float) -> None:
    rows = features.rows("train", "val")
    features_ND, labels_N = features.features[rows], features.labels[rows]
    settings = FitSettings(num_classes=len(CLASSES), path=RegularizationPath(l2=(l2,)))
    (probe,) = fit_path(features_ND, labels_N, settings)
    assert probe.report.certified
    assert probe.report.objective == pytest.approx(reference_objective(features_ND, labels_N, l2), rel=1e-6)


def reference_objective(features_ND: NDArray[np.floating[Any]], labels_N: NDArray[Any], l2: float) -> float:
    """Return the optimum by scikit-learn's Newton solver with exact Hessians, checked by its gradient.

    Weights at the optimum are combinations of the samples, so that the problem is that of the samples' coordinates in
    an orthonormal basis of their span: 72 dimensions, whose Hessian is small. Conjugate gradients ("newton-cg") end at
    weak l2 in a line search that rounding fails or passes, one processor so and another otherwise.
    """
    features_ND = features_ND.astype(np.float64)
    coordinates_NN = features_ND @ np.linalg.qr(features_ND.T)[0]
    model = LogisticRegression(C=1 / l2, tol=1e-11, solver="newton-cholesky", max_iter=1000)
    scores_NK = model.fit(coordinates_NN, labels_N).decision_function(coordinates_NN)
    normaliser_N = np.logaddexp.reduce(scores_NK, axis=1)
    loss: float = (normaliser_N - scores_NK[np.arange(len(labels_N)), labels_N]).sum()
    objective = loss + l2 / 2 * (model.coef_**2).sum()
    residual_NK = np.exp(scores_NK - normaliser_N[:, None]) - np.eye(scores_NK.shape[1])[labels_N]
    gradient_KN = residual_NK.T @ coordinates_NN + l2 * model.coef_
    assert np.abs(residual_NK.sum(0)).max() < 1e-9  # the gradient by the bias
    # The objective is l2-strongly convex in the weights: no point lies lower by more than |gradient|^2 / (2 l2).
    assert (gradient_KN**2).sum() / (2 * l2) < 1e-8 * objective  # measured: at most 2.6e-11
    return float(objective / len(labels_N))


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
