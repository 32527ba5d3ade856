"""Fit a path by other libraries as most people do, one strength after the other, beside the probe's own.

scikit-learn's and cuML's objectives are 1/2 ||W||^2 + C * sum of losses, so C = 1/l2; with two classes they fit one
weight vector w, where the probe's are -w/2 and w/2, and C = 2/l2.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penultimate.engine.probe.fitting.other_solvers import MAX_ITERATIONS, both_classes, softmax_objective
from penultimate.engine.runtime.capabilities import SWITCH

# Shapes: N samples, D feature dimensions, A classes that have samples.


@dataclass(slots=True)
class Peer:
    """An estimator of another library, with what it found in its last turn."""

    name: str
    make: Callable[[], Any]
    """Function that makes the estimator, new for each turn; a path then goes on from strength to strength."""

    features_ND: Any
    labels_N: NDArray[np.int64]

    objectives: dict[float, Callable[[], float]] = field(default_factory=dict)
    """Strength -> function that computes the objective there, in float64."""

    def fit(self, path: Sequence[float]) -> Iterator[int]:
        """Fit each strength and yield 1; what was found before is forgotten."""
        self.objectives.clear()
        model, scale = self.make(), 2 if len(np.unique(self.labels_N)) == 2 else 1
        for l2 in path:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it has not converged, which the objective shows
                model.set_params(C=scale / l2).fit(self.features_ND, self.labels_N)
            weight_AD, bias_A = both_classes(model)
            self.objectives[l2] = lambda weight=weight_AD, bias=bias_A, at=l2: objective(  # type: ignore[misc]
                self.features_ND, self.labels_N, weight, bias, at
            )
            yield 1


def objective(
    features_ND: Any, labels_N: NDArray[np.int64], weight_AD: NDArray[Any], bias_A: NDArray[Any], l2: float
) -> float:
    """Return the softmax objective of any solution, (sum of losses + l2/2 ||W||^2) / N, in float64."""
    features = torch.as_tensor(features_ND)
    index = torch.from_numpy(np.searchsorted(np.unique(labels_N), labels_N)).to(features.device)
    weight_N = torch.full((len(labels_N),), 1 / len(labels_N), dtype=torch.float64, device=features.device)
    found, _ = softmax_objective(
        features, index, weight_N, torch.from_numpy(weight_AD), torch.from_numpy(bias_A), l2 / len(labels_N)
    )
    return found


def blas_in_use() -> str:
    """Say on which kernels NumPy and SciPy, and with them scikit-learn, multiply, and whether the environment chose."""
    from threadpoolctl import threadpool_info

    found = [each for each in threadpool_info() if each["user_api"] == "blas"]
    names = {f"{each['internal_api']} {each['version']} {each.get('architecture', '')}".strip() for each in found}
    chosen = os.environ.get("OPENBLAS_CORETYPE")
    if chosen is None:
        by = ""
    elif os.environ.get(SWITCH):
        by = f", as {SWITCH} sets OPENBLAS_CORETYPE={chosen}"
    else:
        by = f"; OPENBLAS_CORETYPE={chosen} was set before, without which OpenBLAS may be faster"
    return f"The BLAS of NumPy and SciPy, and with them of scikit-learn, is {' and '.join(sorted(names))}{by}."


def scikit_learns(features_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> list[Peer]:
    """Return scikit-learn's logistic regression in float64, and in float32, which its lbfgs keeps since 1.9."""
    from sklearn.linear_model import LogisticRegression

    def make() -> Any:
        return LogisticRegression(solver="lbfgs", warm_start=True, max_iter=MAX_ITERATIONS)

    return [
        Peer(name=f"scikit-learn {dtype}", make=make, features_ND=features_ND.astype(dtype), labels_N=labels_N)
        for dtype in ("float64", "float32")
    ]


def cumls(features_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> list[Peer]:
    """Return cuML's logistic regression, on features that are on the GPU, where it is installed."""
    if find_spec("cuml") is None:
        return []
    return [Peer(name="cuML", make=_cuml, features_ND=torch.from_numpy(features_ND).cuda(), labels_N=labels_N)]


def hinge_peers(features_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> list[Peer]:
    """Return scikit-learn's ``LinearSVC`` as it comes; it regularises the bias a little, and has no warm start."""
    from sklearn.svm import LinearSVC

    return [Peer(name="LinearSVC", make=LinearSVC, features_ND=features_ND.astype(np.float64), labels_N=labels_N)]


def peers_of(
    loss: str, features_ND: NDArray[np.float32], labels_N: NDArray[Any], *, device: str, on_cpu: bool = True
) -> list[Peer]:
    """Return the peers that fit this loss; none for one-vs-rest logistic regression or several labels a sample.

    Those that compute on a CPU whatever the ``device`` are left out without ``on_cpu``.
    """
    if labels_N.ndim == 2:
        return []
    if loss == "softmax":
        gpu = cumls(features_ND, labels_N) if device == "cuda" else []
        return [*(scikit_learns(features_ND, labels_N) if on_cpu else []), *gpu]
    return hinge_peers(features_ND, labels_N) if loss == "squared_hinge" and on_cpu else []


def _cuml() -> Any:
    from cuml.linear_model import LogisticRegression

    return LogisticRegression(max_iter=MAX_ITERATIONS, output_type="numpy")
