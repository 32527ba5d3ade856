"""Choose a solver by name, all of the same objective: torch, cuML on a GPU, scikit-learn as the reference.

The strength is converted here and nowhere else: scikit-learn and cuML minimise 1/2 ||W||^2 + C * sum of losses, so
C = 1/l2. With two classes both fit one weight vector w where ours has two, W = (-w/2, w/2) at the optimum, and
||W||^2 = ||w||^2 / 2: there C = 2/l2. Both leave the bias free.
"""

import time
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.probe.fitting.fit import check_features, check_labels, fit_path, normalized_weights
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.result import Probe, SolveReport
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError

# Shapes: N samples, D feature dimensions, K classes, A classes that have samples.


class PathSolver(Protocol):
    """A function that fits a whole path, by whatever library."""

    def __call__(
        self,
        features_ND: NDArray[np.floating[Any]],
        labels: NDArray[Any],
        settings: FitSettings,
        *,
        sample_weight_N: NDArray[np.floating[Any]] | None = None,
    ) -> list[Probe]:
        """Return a Probe for each strength, strongest first."""
        ...


def sklearn_path(
    features_ND: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    settings: FitSettings,
    *,
    sample_weight_N: NDArray[np.floating[Any]] | None = None,
) -> list[Probe]:
    """Fit by scikit-learn's ``lbfgs``, warm-started along the path, in float64; it certifies nothing and says so.

    ``tol`` is scikit-learn's own: the largest component of the gradient of the mean objective.
    """
    from sklearn.linear_model import LogisticRegression  # the reference, only when chosen

    _only_softmax("sklearn", settings.loss)
    if settings.device != "cpu":
        raise UnavailableError(
            f"the sklearn solver runs on the CPU, not on {settings.device!r}; use solver='torch' or 'cuml'"
        )
    model = LogisticRegression(solver="lbfgs", warm_start=True, tol=settings.tol, max_iter=1000)
    return _fit_estimator(model, features_ND.astype(np.float64), labels, settings, sample_weight_N)


def cuml_path(
    features_ND: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    settings: FitSettings,
    *,
    sample_weight_N: NDArray[np.floating[Any]] | None = None,
) -> list[Probe]:
    """Fit by cuML's quasi-Newton solver in float32, each strength on its own: it has no warm start, and no certificate.

    ``tol`` is cuML's own, on the gradient relative to the loss.
    """
    if find_spec("cuml") is None:
        raise UnavailableError("cuML is not installed; pip install 'penultimate[gpu]' (Linux with an NVIDIA GPU)")
    from cuml.linear_model import LogisticRegression

    _only_softmax("cuml", settings.loss)
    model = LogisticRegression(penalty="l2", tol=settings.tol, max_iter=1000, output_type="numpy")
    return _fit_estimator(model, features_ND.astype(np.float32), labels, settings, sample_weight_N)


SOLVERS: dict[str, PathSolver] = {"torch": fit_path, "cuml": cuml_path, "sklearn": sklearn_path}
"""Name -> solver."""


def solver_named(name: str) -> PathSolver:
    """Return the solver, or raise ``UnknownNameError`` with the nearest names."""
    if name not in SOLVERS:
        raise UnknownNameError("solver", name, SOLVERS)
    return SOLVERS[name]


def _only_softmax(name: str, loss: str) -> None:
    if loss != "softmax":
        raise InputError(f"the {name} solver fits loss='softmax' only, got {loss!r}; use solver='torch'")


def _fit_estimator(
    model: Any,
    features_ND: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    settings: FitSettings,
    sample_weight_N: NDArray[np.floating[Any]] | None,
) -> list[Probe]:
    """Fit an estimator with scikit-learn's interface once for each strength, in the dtype of the features."""
    check_features(features_ND)
    check_labels(labels, len(features_ND), settings.num_classes, multi_label=False)
    weight_N, total = normalized_weights(sample_weight_N, len(features_ND))
    if weight_N is None:
        weight_N = np.full(len(labels), 1 / total)
    present_A = np.unique(labels)
    if len(present_A) < 2:
        raise InputError(f"softmax needs samples of at least 2 classes, got only class {present_A.tolist()}")
    index_N = np.searchsorted(present_A, labels)
    probes = []
    for l2 in settings.path.l2:
        began = time.perf_counter()
        model.set_params(C=(2 if len(present_A) == 2 else 1) / l2)
        model.fit(features_ND, labels, sample_weight=sample_weight_N)
        seconds = time.perf_counter() - began
        weight_AD, bias_A = _both_classes(model)
        objective, gradient_norm = measure(features_ND, index_N, weight_N, weight_AD, bias_A, l2 / total)
        report = SolveReport(
            status="uncertified",
            steps=int(np.max(model.n_iter_)),
            passes=float(np.max(model.n_iter_)),
            curvature_passes=0.0,
            objective=objective,
            gradient_norm=gradient_norm,
            gap=float("inf"),
            seconds=seconds,
            precision=str(features_ND.dtype),
        )
        weight_KD = np.zeros((settings.num_classes, features_ND.shape[1]), np.float32)
        bias_K = np.full(settings.num_classes, -np.inf, np.float32)
        weight_KD[present_A], bias_K[present_A] = weight_AD, bias_A
        probes.append(Probe(weight_KD=weight_KD, bias_K=bias_K, l2=l2, report=report))
    return probes


def _both_classes(model: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights (A, D) and biases (A,) of a fitted estimator, two of each where it has one for two classes."""
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def measure(
    features_ND: NDArray[np.floating[Any]],
    index_N: NDArray[np.integer[Any]],
    weight_N: NDArray[np.float64],
    weight_KD: NDArray[np.float64],
    bias_K: NDArray[np.float64],
    mu: float,
) -> tuple[float, float]:
    """Return the softmax objective and the 2-norm of its gradient, in float64, of weights found elsewhere.

    ``weight_N`` are sample weights that sum to 1, ``mu`` is l2 over the sum of the original ones.
    """
    scores_NK = features_ND.astype(np.float64) @ weight_KD.T + bias_K
    scores_NK -= scores_NK.max(1, keepdims=True)
    log_sum_N = np.log(np.exp(scores_NK).sum(1))
    rows_N = np.arange(len(index_N))
    objective = weight_N @ (log_sum_N - scores_NK[rows_N, index_N]) + mu / 2 * (weight_KD**2).sum()
    residual_NK = np.exp(scores_NK - log_sum_N[:, None])
    residual_NK[rows_N, index_N] -= 1
    residual_NK *= weight_N[:, None]
    by_weight = np.linalg.norm(residual_NK.T @ features_ND + mu * weight_KD)
    return float(objective), float(np.hypot(by_weight, np.linalg.norm(residual_NK.sum(0))))
