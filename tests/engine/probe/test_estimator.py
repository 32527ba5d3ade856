"""LogisticRegressionPath and its companion keep scikit-learn's contract."""

from typing import Any

from sklearn.utils.estimator_checks import parametrize_with_checks

from penultimate.engine.probe.estimator import LogisticRegressionPath, LogisticRegressionPathCV


@parametrize_with_checks([LogisticRegressionPath(l2=[1.0, 0.1]), LogisticRegressionPathCV(l2=[1.0, 0.1])])
def test_passes_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)
