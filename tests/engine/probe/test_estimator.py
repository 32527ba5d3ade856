"""LinearProbePath and LinearProbePathCV keep scikit-learn's contract."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from support.probe_cases import mixture, softmax_objective

from penultimate.engine.probe.estimator import LinearProbePath, LinearProbePathCV
from penultimate.store.errors import InputError, UnavailableError

EXACT: dict[str, Any] = {"solver": "newton-cholesky", "tol": 1e-11, "max_iter": 10_000}


@parametrize_with_checks(  # type: ignore[untyped-decorator]  # scikit-learn ships no types
    [LinearProbePath(l2=[1.0, 0.1]), LinearProbePathCV(l2=[1.0, 0.1])]
)
def test_passes_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_the_path_carries_objectives_and_bounds_on_their_distance() -> None:
    features_ND, labels_N = mixture()
    model = LinearProbePath(l2="1e-3:1e3:7").fit(features_ND, labels_N)
    assert model.coef_path_.shape == (7, 4, 12)
    assert model.intercept_path_.shape == (7, 4)
    assert (model.status_ == "certified").all()
    assert (model.gap_ <= 1e-4 * model.objective_).all()
    for l2, weight_KD, bias_K, found in zip(
        model.l2_, model.coef_path_, model.intercept_path_, model.objective_, strict=True
    ):
        expected = softmax_objective(features_ND, labels_N, weight_KD, bias_K, l2)
        assert found == pytest.approx(expected, rel=2e-6)  # weights are float32


def test_l2_of_none_is_the_papers_45_strengths() -> None:
    features_ND, labels_N = mixture(60)
    model = LinearProbePath().fit(features_ND, labels_N)
    np.testing.assert_allclose(model.l2_, np.logspace(5, -6, 45))


def test_two_classes_are_scikit_learns_problem_at_twice_the_C() -> None:
    features_ND, labels_N = mixture(classes=2)
    model = LinearProbePath(l2=0.5, tol=1e-9).fit(features_ND, labels_N)
    theirs = LogisticRegression(C=2 / 0.5, **EXACT).fit(features_ND.astype(np.float64), labels_N)
    np.testing.assert_allclose(model.predict_proba(features_ND), theirs.predict_proba(features_ND), atol=1e-4)
    np.testing.assert_allclose(model.decision_function(features_ND), theirs.decision_function(features_ND), atol=1e-3)


def test_it_works_in_a_pipeline_with_labels_of_any_type() -> None:
    features_ND, labels_N = mixture()
    names_N = np.array(["cat", "dog", "owl", "yak"])[labels_N]
    pipeline = make_pipeline(StandardScaler(), LinearProbePath(l2=1.0)).fit(features_ND, names_N)
    assert pipeline.score(features_ND, names_N) > 0.8
    np.testing.assert_allclose(pipeline.predict_proba(features_ND).sum(1), 1)


def test_balanced_class_weights_are_scikit_learns() -> None:
    features_ND, labels_N = mixture()
    keep_N = (labels_N != 0) | (np.arange(len(labels_N)) % 5 == 0)
    features_ND, labels_N = features_ND[keep_N], labels_N[keep_N]
    model = LinearProbePath(l2=1.0, class_weight="balanced", tol=1e-9).fit(features_ND, labels_N)
    theirs = LogisticRegression(C=1.0, class_weight="balanced", **EXACT).fit(features_ND.astype(np.float64), labels_N)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=2e-3)


def test_cross_validation_chooses_the_strongest_of_the_best_and_refits_on_all() -> None:
    features_ND, labels_N = mixture()
    model = LinearProbePathCV(l2="1e-3:1e3:7", tol=1e-8).fit(features_ND, labels_N)
    assert model.best_l2_ == model.l2_[model.val_scores_ == model.val_scores_.max()].max()
    again = LinearProbePath(l2=model.best_l2_, tol=1e-8).fit(features_ND, labels_N)
    np.testing.assert_allclose(model.coef_, again.coef_, atol=1e-3)


def test_sparse_features_are_refused() -> None:
    features_ND, labels_N = mixture()
    with pytest.raises(TypeError, match="dense"):
        LinearProbePath(l2=1.0).fit(csr_array(features_ND), labels_N)  # type: ignore[arg-type]  # the point


def test_a_solver_that_is_not_installed_says_how_to_install_it() -> None:
    features_ND, labels_N = mixture()
    if find_spec("cuml"):
        pytest.skip("it is installed here")
    with pytest.raises(UnavailableError, match=r"pip install 'penultimate\[gpu\]'"):
        LinearProbePath(l2=1.0, solver="cuml").fit(features_ND, labels_N)


def test_an_unknown_solver_is_named_with_the_nearest() -> None:
    features_ND, labels_N = mixture()
    with pytest.raises(InputError, match="did you mean torch"):
        LinearProbePath(l2=1.0, solver="troch").fit(features_ND, labels_N)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_sklearn_solver_solves_the_same_problem_and_certifies_nothing(classes: int) -> None:
    features_ND, labels_N = mixture(classes=classes)
    ours = LinearProbePath(l2=[10.0, 1.0]).fit(features_ND, labels_N)
    theirs = LinearProbePath(l2=[10.0, 1.0], solver="sklearn", tol=1e-8).fit(features_ND, labels_N)
    np.testing.assert_allclose(theirs.objective_, ours.objective_, rtol=1e-6)
    np.testing.assert_allclose(theirs.coef_, ours.coef_, atol=5e-3)
    assert (theirs.status_ == "uncertified").all()
    assert np.isinf(theirs.gap_).all()
