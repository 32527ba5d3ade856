"""Solvers by name, all for the same objective: ours on torch, cuML on a GPU, scikit-learn as the reference.

The conversions of the strength, done here and nowhere else: scikit-learn and cuML minimise
1/2 ||W||^2 + C * sum of losses, so C = 1/l2. With two classes both fit one weight vector w where ours has two,
W = (-w/2, w/2) at the optimum, and ||W||^2 = ||w||^2 / 2: there C = 2/l2. Both leave the bias free.
"""

import time
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.probe.fit import check_features, check_labels, check_weights, fit_path
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe, SolveReport
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError

# Shapes: N samples, D feature dimensions, K classes.


class PathSolver(Protocol):
    """What ``fit_path`` does, by whatever library."""

    def __call__(
        self,
        features_ND: NDArray[np.floating[Any]],
        labels: NDArray[Any],
        *,
        num_classes: int,
        path: RegularizationPath,
        loss: str,
        tol: float,
        device: str,
        sample_weight_N: NDArray[np.floating[Any]] | None,
    ) -> list[Probe]:
        """A Probe a strength."""
        ...


def sklearn_path(
    features_ND: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    *,
    num_classes: int,
    path: RegularizationPath,
    loss: str = "softmax",
    tol: float = 1e-4,
    device: str = "cpu",
    sample_weight_N: NDArray[np.floating[Any]] | None = None,
) -> list[Probe]:
    """scikit-learn's ``lbfgs``, warm-started along the path, float64; certifies nothing and says so.

    ``tol`` is scikit-learn's own: the largest component of the gradient of the mean objective.
    """
    from sklearn.linear_model import LogisticRegression  # the reference, only when chosen

    _only_softmax("sklearn", loss)
    if device != "cpu":
        raise UnavailableError(f"the sklearn solver runs on the CPU, not on {device!r}; use solver='torch' or 'cuml'")
    model = LogisticRegression(solver="lbfgs", warm_start=True, tol=tol, max_iter=1000)
    return _foreign_path(
        model, features_ND.astype(np.float64), labels, num_classes, path, sample_weight_N, precision="float64"
    )


def cuml_path(
    features_ND: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    *,
    num_classes: int,
    path: RegularizationPath,
    loss: str = "softmax",
    tol: float = 1e-4,
    device: str = "cuda",
    sample_weight_N: NDArray[np.floating[Any]] | None = None,
) -> list[Probe]:
    """cuML's quasi-Newton solver, float32, each strength on its own: it has no warm start; certifies nothing.

    ``tol`` is cuML's own, on the gradient relative to the loss.
    """
    if find_spec("cuml") is None:
        raise UnavailableError("cuML is not installed; pip install 'penultimate[gpu]' (Linux with an NVIDIA GPU)")
    from cuml.linear_model import LogisticRegression

    _only_softmax("cuml", loss)
    model = LogisticRegression(penalty="l2", tol=tol, max_iter=1000, output_type="numpy")
    return _foreign_path(
        model, features_ND.astype(np.float32), labels, num_classes, path, sample_weight_N, precision="float32"
    )


SOLVERS: dict[str, PathSolver] = {"torch": fit_path, "cuml": cuml_path, "sklearn": sklearn_path}
"""The solvers by the name they are asked for."""


def solver_named(name: str) -> PathSolver:
    """The solver, or ``UnknownNameError`` with the nearest names."""
    if name not in SOLVERS:
        raise UnknownNameError("solver", name, SOLVERS)
    return SOLVERS[name]


def _only_softmax(name: str, loss: str) -> None:
    if loss != "softmax":
        raise InputError(f"the {name} solver fits loss='softmax' only, got {loss!r}; use solver='torch'")


def _foreign_path(
    model: Any,
    features_ND: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    num_classes: int,
    path: RegularizationPath,
    sample_weight_N: NDArray[np.floating[Any]] | None,
    *,
    precision: str,
) -> list[Probe]:
    """Fit an estimator of scikit-learn's shape once a strength."""
    check_features(features_ND)
    check_labels(labels, len(features_ND), num_classes, multi_label=False)
    _, total = check_weights(sample_weight_N, len(features_ND))
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(f"softmax needs samples of at least 2 classes, got only class {present.tolist()}")
    probes = []
    for l2 in path.l2:
        began = time.perf_counter()
        model.set_params(C=(2 if len(present) == 2 else 1) / l2)
        model.fit(features_ND, labels, sample_weight=sample_weight_N)
        seconds = time.perf_counter() - began
        weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
        if len(present) == 2:
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        share_N = np.full(len(labels), 1.0) if sample_weight_N is None else np.asarray(sample_weight_N, np.float64)
        objective, gradient_norm = measure(
            features_ND, np.searchsorted(present, labels), share_N / total, weight, bias, l2 / total
        )
        report = SolveReport(
            status="uncertified",
            steps=int(np.max(model.n_iter_)),
            passes=float(np.max(model.n_iter_)),
            curvature_passes=0.0,
            objective=objective,
            gradient_norm=gradient_norm,
            gap=float("inf"),
            seconds=seconds,
            precision=precision,
        )
        weight_KD = np.zeros((num_classes, features_ND.shape[1]), np.float32)
        bias_K = np.full(num_classes, -np.inf, np.float32)
        weight_KD[present], bias_K[present] = weight, bias
        probes.append(Probe(weight_KD=weight_KD, bias_K=bias_K, l2=l2, report=report))
    return probes


def measure(
    features_ND: NDArray[np.floating[Any]],
    index_N: NDArray[np.integer[Any]],
    share_N: NDArray[np.float64],
    weight_KD: NDArray[np.float64],
    bias_K: NDArray[np.float64],
    mu: float,
) -> tuple[float, float]:
    """Softmax objective and the 2-norm of its gradient, in float64, of weights found elsewhere."""
    scores_NK = features_ND.astype(np.float64) @ weight_KD.T + bias_K
    scores_NK -= scores_NK.max(1, keepdims=True)
    log_sum_N = np.log(np.exp(scores_NK).sum(1))
    rows_N = np.arange(len(index_N))
    objective = share_N @ (log_sum_N - scores_NK[rows_N, index_N]) + mu / 2 * (weight_KD**2).sum()
    residual_NK = np.exp(scores_NK - log_sum_N[:, None])
    residual_NK[rows_N, index_N] -= 1
    residual_NK *= share_N[:, None]
    by_weight = np.linalg.norm(residual_NK.T @ features_ND + mu * weight_KD)
    return float(objective), float(np.hypot(by_weight, np.linalg.norm(residual_NK.sum(0))))
