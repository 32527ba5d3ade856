"""Fit whole paths by scikit-learn and by cuML: the same objective, converted to theirs, and measured as ours is.

Both minimise 1/2 ||W||^2 + C * sum of losses, so C = 1/l2. With two classes both fit one weight vector w where ours has
two, W = (-w/2, w/2) at the optimum, and ||W||^2 = ||w||^2 / 2: there C = 2/l2. Both leave the bias free.

cuML 26.10 takes sample weights and ignores them for three classes or more (its softmax has no such argument). For two
classes it divides the loss by the sum of the weights but the gradient by N, so that a line search goes astray unless
their mean is 1.
"""

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.probe.fitting.fit import (
    check_features,
    check_labels,
    normalized_weights,
    on_device,
    torch_device,
)
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.objective.pieces import pieces
from penultimate.engine.probe.result import Probe, SolveReport
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.store.errors import InputError, UnavailableError

# Shapes: N samples, B some of them, D feature dimensions, K classes, A classes that have samples.

MAX_ITERATIONS = 1000
"""Number of iterations at each strength, after which its report says ``step_limit``."""

CPU_ROWS = 4096
"""Number of rows whose scores are measured at once on a CPU."""


def sklearn_path(
    features_ND: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    settings: FitSettings,
    *,
    sample_weight_N: NDArray[np.floating[Any]] | None = None,
    start: Sequence[Probe] = (),
) -> list[Probe]:
    """Fit by scikit-learn's ``lbfgs``, warm-started along the path, in float64; it certifies nothing and says so.

    It begins at zero whatever the ``start``: without a certificate nothing would tell that it got no further.

    ``tol`` is scikit-learn's own: the largest component of the gradient of the mean objective.
    """
    from sklearn.linear_model import LogisticRegression  # the reference, only when chosen

    _check("sklearn", features_ND, labels, settings)
    if settings.device != "cpu":
        raise UnavailableError(
            f"the sklearn solver runs on the CPU, not on {settings.device!r}; use solver='torch' or 'cuml'"
        )
    model = LogisticRegression(solver="lbfgs", warm_start=True, tol=settings.tol, max_iter=MAX_ITERATIONS)
    doubled_ND = features_ND.astype(np.float64)

    def fit(inverse_l2: float) -> Any:
        return model.set_params(C=inverse_l2).fit(doubled_ND, labels, sample_weight=sample_weight_N)

    return _fit_path(fit, on_device(doubled_ND, torch.device("cpu")), labels, settings, sample_weight_N)


def cuml_path(
    features_ND: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    settings: FitSettings,
    *,
    sample_weight_N: NDArray[np.floating[Any]] | None = None,
    start: Sequence[Probe] = (),
) -> list[Probe]:
    """Fit by cuML's quasi-Newton solver in float32, each strength on its own: it has no warm start, and no certificate.

    It runs on a GPU, the current one unless ``device`` names another; features are copied there once, and objectives
    measured there in float64. ``tol`` is cuML's own, on the gradient relative to the loss. Raises ``UnavailableError``
    where cuML or a GPU is missing, and ``InputError`` for sample weights of three classes or more, which cuML ignores.
    """
    if find_spec("cuml") is None:
        raise UnavailableError("cuML is not installed; pip install 'penultimate[gpu]' (Linux with an NVIDIA GPU)")
    from cuml.linear_model import LogisticRegression

    _check("cuml", features_ND, labels, settings)
    device = torch_device("cuda" if settings.device == "cpu" else settings.device)
    mean_one_N, scale = None, 1.0
    if sample_weight_N is not None:
        if len(np.unique(labels)) > 2:
            raise InputError("cuML ignores sample weights where there are more than 2 classes; use solver='torch'")
        normalized_N, total = normalized_weights(sample_weight_N, len(labels))
        assert normalized_N is not None
        scale = len(labels) / total
        mean_one_N = (normalized_N * len(labels)).astype(np.float32)
    model = LogisticRegression(tol=settings.tol, max_iter=MAX_ITERATIONS, output_type="numpy")
    with torch.cuda.device(device):
        features = on_device(features_ND.astype(np.float32), device)

        def fit(inverse_l2: float) -> Any:
            model.C = inverse_l2 / scale  # l2 grows with the weights
            return model.fit(features, labels.astype(np.float32), sample_weight=mean_one_N)

        return _fit_path(fit, features, labels, settings, sample_weight_N)


def _check(name: str, features_ND: NDArray[Any], labels: NDArray[Any], settings: FitSettings) -> None:
    if settings.loss != "softmax":
        raise InputError(f"the {name} solver fits loss='softmax' only, got {settings.loss!r}; use solver='torch'")
    check_features(features_ND)
    check_labels(labels, len(features_ND), settings.num_classes, multi_label=False)
    present_A = np.unique(labels)
    if len(present_A) < 2:
        raise InputError(f"softmax needs samples of at least 2 classes, got only class {present_A.tolist()}")


def _fit_path(
    fit: Callable[[float], Any],
    features: Tensor,
    labels: NDArray[Any],
    settings: FitSettings,
    sample_weight_N: NDArray[np.floating[Any]] | None,
) -> list[Probe]:
    """Fit an estimator with scikit-learn's attributes once for each strength; ``fit`` takes C and returns it.

    ``features`` (N, D) are those that it is fitted to, where objectives are measured.
    """
    weight_N, total = normalized_weights(sample_weight_N, len(labels))
    if weight_N is None:
        weight_N = np.full(len(labels), 1 / total)
    present_A = np.unique(labels)
    index = torch.from_numpy(np.searchsorted(present_A, labels)).to(features.device)
    weight = torch.from_numpy(weight_N).to(features.device)
    probes = []
    for l2 in settings.path.l2:
        began = time.perf_counter()
        model = fit((2 if len(present_A) == 2 else 1) / l2)
        seconds = time.perf_counter() - began
        steps = int(np.max(model.n_iter_))
        weight_AD, bias_A = both_classes(model)
        objective, gradient_norm = softmax_objective(
            features, index, weight, torch.from_numpy(weight_AD), torch.from_numpy(bias_A), l2 / total
        )
        report = SolveReport(
            status="step_limit" if steps >= MAX_ITERATIONS else "uncertified",
            steps=steps,
            passes=float(steps),
            curvature_passes=0.0,
            objective=objective,
            gradient_norm=gradient_norm,
            gap=float("inf"),
            seconds=seconds,
            precision=str(features.dtype).removeprefix("torch."),
        )
        weight_KD = np.zeros((settings.num_classes, features.shape[1]), np.float32)
        bias_K = np.full(settings.num_classes, -np.inf, np.float32)
        weight_KD[present_A], bias_K[present_A] = weight_AD, bias_A
        probes.append(Probe(weight_KD=weight_KD, bias_K=bias_K, l2=l2, report=report))
    return probes


def both_classes(model: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights (A, D) and biases (A,) of a fitted estimator, two of each where it has one for two classes."""
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def softmax_objective(
    features_ND: Tensor, index_N: Tensor, weight_N: Tensor, weight_KD: Tensor, bias_K: Tensor, mu: float
) -> tuple[float, float]:
    """Return the softmax objective and the 2-norm of its gradient, in float64, of weights found elsewhere.

    Everything is computed where the features are. ``weight_N`` are sample weights that sum to 1, ``mu`` is l2 over the
    sum of the original ones.
    """
    device = features_ND.device
    weight_KD, bias_K = weight_KD.to(device, torch.float64), bias_K.to(device, torch.float64)
    loss, gradient_KD, residual_K = weight_KD.new_zeros(()), mu * weight_KD, torch.zeros_like(bias_K)
    with torch.no_grad(), float32_arithmetic():
        for rows in pieces(len(features_ND), len(bias_K) + features_ND.shape[1], device, cpu_piece=CPU_ROWS):
            features_BD, index_B1, weight_B = features_ND[rows].double(), index_N[rows, None], weight_N[rows]
            log_likelihood_BK = torch.log_softmax(torch.addmm(bias_K, features_BD, weight_KD.T), 1)
            loss = loss - weight_B @ log_likelihood_BK.gather(1, index_B1)[:, 0]
            residual_BK = log_likelihood_BK.exp_().scatter_add_(1, index_B1, -torch.ones_like(index_B1).double())
            residual_BK *= weight_B[:, None]
            gradient_KD = gradient_KD + residual_BK.T @ features_BD
            residual_K = residual_K + residual_BK.sum(0)
    objective = loss + mu / 2 * weight_KD.square().sum()
    norm = torch.hypot(gradient_KD.norm(), residual_K.norm())
    return float(objective), float(norm)
