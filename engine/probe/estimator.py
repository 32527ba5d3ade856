"""scikit-learn estimators of whole paths: ``LinearProbePath``, and ``LinearProbePathCV``, which chooses a strength.

They follow scikit-learn's contract (``check_estimator`` passes), so that they work in a ``Pipeline``.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from penultimate.engine.metrics import metric_named
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.solvers import solver_named
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe
from penultimate.engine.scoring.outputs import probabilities
from penultimate.store.errors import InputError

# Shapes: N samples, D feature dimensions, K classes, L strengths.


class LinearProbePath(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Linear classifiers at every strength of a regularisation path, each with a certificate.

    Minimises sum_i loss(x_i, y_i; W, b) + l2/2 ||W||^2, bias free, scikit-learn's C = 1/l2. With two classes there are
    two weight vectors all the same, which is scikit-learn's binary problem at C = 2/l2.

    Parameters: ``l2``, a number, numbers, or a text such as ``"1e-4:1e2:25"`` (None: the paper's 45); ``loss``, one of
    ``softmax``, ``logistic`` (one-vs-rest), ``squared_hinge``; ``tol``, the relative tolerance of the stopping rule in
    ``solver/newton.py`` (gap <= tol * objective); ``solver``, ``torch``, ``cuml`` or ``sklearn``; ``device``;
    ``class_weight``, None, ``"balanced"`` or a mapping.

    After ``fit``: ``l2_`` (L,), strongest first; ``coef_path_`` (L, K, D), ``intercept_path_`` (L, K), float32;
    ``objective_`` (L,), divided by N (by the sum of sample weights); ``gap_`` (L,), the certified bound on
    ``objective_`` minus its optimum; ``status_`` (L,); ``probes_``, with all reports. ``predict`` uses ``coef_`` (K, D)
    and ``intercept_`` (K,), those of the weakest strength, the last of the path.
    """

    def __init__(
        self,
        l2: float | ArrayLike | str | None = None,
        loss: str = "softmax",
        tol: float = 1e-4,
        solver: str = "torch",
        device: str = "cpu",
        class_weight: str | Mapping[Any, float] | None = None,
    ) -> None:
        self.l2 = l2
        self.loss = loss
        self.tol = tol
        self.solver = solver
        self.device = device
        self.class_weight = class_weight

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit every strength; ``X`` (N, D) dense, ``y`` (N,) labels of any type."""
        features_ND, index_N = self._validated(X, y)
        weight_N = self._weights(features_ND, index_N, sample_weight)
        self._keep(self._fit_path(features_ND, index_N, weight_N, _path(self.l2)))
        self._choose(len(self.l2_) - 1)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return scores (N, K); with two classes (N,), the second's minus the first's."""
        scores_NK = self._scores(X)
        if len(self.classes_) == 2:
            scores_NK = scores_NK[:, 1] - scores_NK[:, 0]
        return scores_NK

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class of the highest score, (N,)."""
        scores_NK = self._scores(X)
        predicted_N: NDArray[Any] = self.classes_[scores_NK.argmax(1)]
        return predicted_N

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return probabilities (N, K); one-vs-rest ones are divided by their sum over classes, as scikit-learn does."""
        probabilities_NK = probabilities(self._scores(X), self.loss)
        probabilities_NK /= probabilities_NK.sum(1, keepdims=True)
        return probabilities_NK

    def _validated(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
        features_ND, labels_N = validate_data(self, X, y, accept_sparse=False, dtype=[np.float64, np.float32])
        check_classification_targets(labels_N)
        self.classes_, index_N = np.unique(labels_N, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(
                f"This classifier needs samples of at least 2 classes, got one class: {self.classes_[0]!r}"
            )
        return features_ND, index_N.astype(np.int64)

    def _weights(
        self, features_ND: NDArray[Any], index_N: NDArray[np.int64], sample_weight: ArrayLike | None
    ) -> NDArray[np.float64] | None:
        if sample_weight is None and self.class_weight is None:
            return None
        weight_N: NDArray[np.float64] = _check_sample_weight(sample_weight, features_ND, dtype=np.float64, copy=True)
        if self.class_weight is None:
            return weight_N
        by_class_K: NDArray[np.float64] = compute_class_weight(
            self.class_weight, classes=self.classes_, y=self.classes_[index_N], sample_weight=weight_N
        )
        weight_N *= by_class_K[index_N]
        return weight_N

    def _fit_path(
        self,
        features_ND: NDArray[Any],
        index_N: NDArray[np.int64],
        weight_N: NDArray[np.float64] | None,
        path: RegularizationPath,
    ) -> list[Probe]:
        settings = FitSettings(
            num_classes=len(self.classes_), path=path, loss=self.loss, tol=self.tol, device=self.device
        )
        return solver_named(self.solver)(features_ND, index_N, settings, sample_weight_N=weight_N)

    def _keep(self, probes: list[Probe]) -> None:
        self.probes_ = list(probes)  # without the coordinates in which a FittedPath was found
        self.l2_ = np.array([probe.l2 for probe in probes])
        self.coef_path_ = np.stack([probe.weight_KD for probe in probes])
        self.intercept_path_ = np.stack([probe.bias_K for probe in probes])
        self.objective_ = np.array([probe.report.objective for probe in probes])
        self.gap_ = np.array([probe.report.gap for probe in probes])
        self.status_ = np.array([probe.report.status for probe in probes])
        self.n_iter_ = max(1, *(probe.report.steps for probe in probes), 1)

    def _choose(self, row: int) -> None:
        self.coef_, self.intercept_ = self.coef_path_[row], self.intercept_path_[row]

    def _scores(self, X: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self)
        features_ND = validate_data(self, X, reset=False, accept_sparse=False, dtype=[np.float64, np.float32])
        scores_NK: NDArray[np.float64] = (
            features_ND.astype(np.float64) @ self.coef_.T.astype(np.float64) + self.intercept_
        )
        return scores_NK


class LinearProbePathCV(LinearProbePath):
    """Linear classifiers whose strength is chosen on held-out rows by ``metric``, and refitted on all rows.

    ``validation`` is the fraction held out, drawn stratified by ``seed``, or a boolean mask (N,) of the rows held out.
    After ``fit``, besides the attributes of the path (fitted without the held-out rows): ``val_scores_`` (L,),
    ``best_l2_``, the strongest of equals, and ``coef_``, ``intercept_`` and ``refit_`` (its Probe) refitted on all
    rows.
    """

    def __init__(
        self,
        l2: float | ArrayLike | str | None = None,
        loss: str = "softmax",
        tol: float = 1e-4,
        solver: str = "torch",
        device: str = "cpu",
        class_weight: str | Mapping[Any, float] | None = None,
        validation: float | ArrayLike = 0.2,
        metric: str = "top1",
        seed: int = 0,
    ) -> None:
        super().__init__(l2=l2, loss=loss, tol=tol, solver=solver, device=device, class_weight=class_weight)
        self.validation = validation
        self.metric = metric
        self.seed = seed

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the path on the rows that are not held out, choose a strength, and refit it on all rows."""
        features_ND, index_N = self._validated(X, y)
        weight_N = self._weights(features_ND, index_N, sample_weight)
        held_N = self._held_out(index_N)
        metric = metric_named(self.metric)
        kept_weight_N = None if weight_N is None else weight_N[~held_N]
        self._keep(self._fit_path(features_ND[~held_N], index_N[~held_N], kept_weight_N, _path(self.l2)))
        self.val_scores_ = np.array([metric(p.scores(features_ND[held_N]), index_N[held_N]) for p in self.probes_])
        best = int(self.val_scores_.argmax())
        self.best_l2_ = float(self.l2_[best])
        alone = RegularizationPath(l2=(self.best_l2_,))
        (self.refit_,) = self._fit_path(features_ND, index_N, weight_N, alone)
        self.coef_, self.intercept_ = self.refit_.weight_KD, self.refit_.bias_K
        return self

    def _held_out(self, index_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the mask given, or draw the fraction from every class of several samples: at least one and not all."""
        if not np.isscalar(self.validation):
            mask_N = np.asarray(self.validation)
            if mask_N.dtype != bool or mask_N.shape != index_N.shape or not mask_N.any() or mask_N.all():
                raise InputError(
                    f"validation must be a fraction or a boolean mask of {len(index_N)} rows, some held out"
                )
            return mask_N
        fraction = float(self.validation)  # type: ignore[arg-type]  # a scalar here
        if not 0 < fraction < 1:
            raise InputError(f"validation must be a fraction in (0, 1) or a boolean mask, got {self.validation!r}")
        rng = np.random.default_rng(self.seed)
        held_N = np.zeros(len(index_N), dtype=bool)
        for label in np.unique(index_N):
            members = rng.permutation(np.flatnonzero(index_N == label))
            held_N[members[: min(len(members) - 1, max(1, round(fraction * len(members))))]] = True
        return held_N


def _path(l2: float | ArrayLike | str | None) -> RegularizationPath:
    if l2 is None:
        return RegularizationPath.paper()
    if isinstance(l2, str):
        return RegularizationPath.parse(l2)
    values = np.unique(np.asarray(l2, dtype=np.float64))[::-1]
    return RegularizationPath(l2=tuple(values.tolist()))
