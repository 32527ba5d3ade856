"""fit_path against scikit-learn, known optima and invariances."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from penultimate.engine.probe.fit import fit_path
from penultimate.engine.probe.path import RegularizationPath
from penultimate.store.errors import InputError

# Shapes: N samples, D feature dimensions, K classes.

N, D, K = 240, 12, 4


def mixture(rows: int = N, dims: int = D, classes: int = K, *, seed: int = 0, apart: float = 1.0):
    """Gaussian classes that overlap, with features of unequal scale and a mean far from zero."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(classes, size=rows)
    labels_N[:classes] = np.arange(classes)
    centres_KD = apart * rng.normal(size=(classes, dims))
    features_ND = (rng.normal(size=(rows, dims)) + centres_KD[labels_N]) * np.geomspace(3, 0.05, dims) + 2
    return features_ND.astype(np.float32), labels_N


def objective(features_ND, labels_N, weight_KD: NDArray, bias_K: NDArray, l2: float) -> float:
    """(sum of cross-entropies + l2/2 ||W||^2) / N in float64, written without the package."""
    scores_NK = features_ND.astype(np.float64) @ weight_KD.T.astype(np.float64) + bias_K
    scores_NK -= scores_NK.max(1, keepdims=True)
    log_likelihood = scores_NK[np.arange(len(labels_N)), labels_N] - np.log(np.exp(scores_NK).sum(1))
    return float((-log_likelihood.sum() + l2 / 2 * (weight_KD.astype(np.float64) ** 2).sum()) / len(labels_N))


@pytest.mark.parametrize("l2", [1e3, 1.0, 1e-4])
def test_agrees_with_scikit_learn_at_C_equal_one_over_l2(l2: float) -> None:
    features_ND, labels_N = mixture()
    (probe,) = fit_path(features_ND, labels_N, num_classes=K, path=RegularizationPath(l2=(l2,)))
    theirs = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=100_000).fit(features_ND.astype(np.float64), labels_N)
    optimum = objective(features_ND, labels_N, theirs.coef_, theirs.intercept_, l2)
    assert probe.report.certified
    assert probe.report.objective == pytest.approx(optimum, rel=1e-6)  # the tolerance asks for 1e-6 of the objective
    ours = objective(features_ND, labels_N, probe.weight_KD, probe.bias_K, l2)
    assert ours == pytest.approx(probe.report.objective, rel=1e-6)  # weights are returned in float32
    assert -1e-9 < probe.report.objective - optimum <= probe.report.gap + 1e-9 * optimum


def test_one_class_only_is_refused() -> None:
    features_ND, _ = mixture()
    with pytest.raises(InputError, match="at least 2 classes"):
        fit_path(features_ND, np.zeros(N, np.int64), num_classes=K, path=RegularizationPath(l2=(1.0,)))


def test_rows_that_are_not_finite_are_named() -> None:
    features_ND, labels_N = mixture()
    features_ND[[3, 17], 2] = np.nan, np.inf
    with pytest.raises(InputError, match="rows 3, 17"):
        fit_path(features_ND, labels_N, num_classes=K, path=RegularizationPath(l2=(1.0,)))


def test_a_start_fitted_to_other_samples_is_only_a_start() -> None:
    """Far from the optimum there is no bound yet; that is no reason to stop."""
    features_ND, labels_N = mixture(400, 100, 10, apart=0.7)
    path = RegularizationPath(l2=(1e-5,))
    (before,) = fit_path(features_ND[:300], labels_N[:300], num_classes=10, path=path)
    (warm,) = fit_path(features_ND, labels_N, num_classes=10, path=path, start=before)
    (cold,) = fit_path(features_ND, labels_N, num_classes=10, path=path)
    assert warm.report.certified
    assert warm.report.objective == pytest.approx(cold.report.objective, abs=2 * warm.report.gap + 2 * cold.report.gap)
