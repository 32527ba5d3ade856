"""The solver ``cuml`` on a stand-in with cuML's semantics on the simulated GPU, and against cuML's own signatures."""

import importlib.util
import inspect
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Self

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as ReferenceRegression
from support.probe_cases import mixture, softmax_objective
from support.simulated_cuda import CudaTensor, SimulatedCuda, simulated_cuda

from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.other_solvers import cuml_path
from penultimate.engine.probe.fitting.solvers import torch_path
from penultimate.engine.probe.path import RegularizationPath
from penultimate.store.errors import InputError, UnavailableError

PATH = RegularizationPath.parse("0.1:10:3")


class LogisticRegression:
    """The stand-in for cuML 26.10's: weights ignored for K > 2, and for K = 2 of use only where their mean is 1."""

    def __init__(
        self,
        *,
        penalty: str = "l2",
        tol: float = 1e-4,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Any = None,
        max_iter: int = 1000,
        linesearch_max_iter: int = 50,
        verbose: bool = False,
        l1_ratio: float | None = None,
        solver: str = "qn",
        output_type: str | None = None,
    ) -> None:
        self.tol, self.C, self.max_iter, self.output_type = tol, C, max_iter, output_type

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, convert_dtype: bool = True) -> Self:
        """Fit in float64, as near to the optimum as ``max_iter`` allows."""
        assert isinstance(X, CudaTensor), "features are copied to the GPU at every fit"
        assert y.dtype == np.float32
        binary = len(np.unique(y)) == 2
        if not binary:
            sample_weight = None
        elif sample_weight is not None and abs(float(np.mean(sample_weight)) - 1) > 1e-5:
            # The loss is divided by their sum and the gradient by N: the line search fails at the first step.
            self.coef_, self.intercept_ = np.zeros((1, X.shape[1])), np.zeros(1)
            self.n_iter_ = np.array([1])
            return self
        model = ReferenceRegression(C=self.C, tol=1e-10, max_iter=self.max_iter, solver="newton-cholesky")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X.memory.double().numpy(), y, sample_weight=sample_weight)
        self.coef_, self.intercept_, self.n_iter_ = model.coef_, model.intercept_, model.n_iter_
        return self


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedCuda]:
    """Install the stand-in, and simulate a GPU."""
    package, module = ModuleType("cuml"), ModuleType("cuml.linear_model")
    package.__spec__ = ModuleSpec("cuml", None)
    module.LogisticRegression = LogisticRegression  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuml", package)
    monkeypatch.setitem(sys.modules, "cuml.linear_model", module)
    with simulated_cuda() as device:
        yield device


def settings(classes: int, **options: Any) -> FitSettings:
    return FitSettings(**{"num_classes": classes, "path": PATH, **options})


@pytest.mark.parametrize("classes", [2, 4])
def test_cuml_and_torch_solve_the_same_problem_on_the_same_features(classes: int, cuda: SimulatedCuda) -> None:
    features_ND, labels_N = mixture(300, 8, classes)
    theirs = cuml_path(features_ND, labels_N, settings(classes, device="cuda"))
    ours = torch_path(features_ND, labels_N, settings(classes, device="cuda"))
    for one, other in zip(theirs, ours, strict=True):
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-6)
        measured = softmax_objective(features_ND, labels_N, one.weight_KD, one.bias_K, one.l2)
        assert one.report.objective == pytest.approx(measured, rel=2e-6)  # weights are returned in float32
        assert one.report.gradient_norm < 1e-3
        assert (one.report.status, one.report.precision) == ("uncertified", "float32")
        assert one.report.steps > 0


def test_features_are_copied_to_the_gpu_once_and_objectives_measured_there(cuda: SimulatedCuda) -> None:
    features_ND, labels_N = mixture(3000, 64, 4)
    cuml_path(features_ND, labels_N, settings(4))
    assert features_ND.nbytes <= cuda.to_device_bytes < 1.2 * features_ND.nbytes
    assert cuda.launches.within("other_solvers.py") > 10 * len(PATH)
    assert cuda.to_host_bytes == 0  # objectives come back as numbers


def test_weights_that_cuml_would_ignore_are_refused(cuda: SimulatedCuda) -> None:
    features_ND, labels_N = mixture()
    with pytest.raises(InputError, match="cuML ignores sample weights"):
        cuml_path(features_ND, labels_N, settings(4), sample_weight_N=np.ones(len(labels_N)))


@pytest.mark.parametrize("size", [1.0, 7.0, 1e-3])
def test_weights_of_two_classes_count_whatever_their_mean(size: float, cuda: SimulatedCuda) -> None:
    features_ND, labels_N = mixture(200, 6, 2)
    weight_N = size * np.random.default_rng(1).uniform(0.2, 3, 200)
    theirs = cuml_path(features_ND, labels_N, settings(2), sample_weight_N=weight_N)
    ours = torch_path(features_ND, labels_N, settings(2, device="cuda"), sample_weight_N=weight_N)
    for one, other in zip(theirs, ours, strict=True):
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-5)  # its weights are float32


def test_running_out_of_iterations_is_reported(cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penultimate.engine.probe.fitting.other_solvers.MAX_ITERATIONS", 2)
    features_ND, labels_N = mixture()
    probes = cuml_path(features_ND, labels_N, settings(4))
    assert {(probe.report.status, probe.report.steps) for probe in probes} == {("step_limit", 2)}


def test_cuml_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr("penultimate.engine.probe.fitting.other_solvers.find_spec", lambda name: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    module = ModuleType("cuml.linear_model")
    module.LogisticRegression = LogisticRegression  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuml", ModuleType("cuml"))
    monkeypatch.setitem(sys.modules, "cuml.linear_model", module)
    features_ND, labels_N = mixture()
    with pytest.raises(UnavailableError, match="no CUDA device"):
        cuml_path(features_ND, labels_N, settings(4))


def test_the_stand_in_has_cuml_s_signatures() -> None:
    """Every argument that is used here is one of cuML's own, with its meaning of C."""
    pytest.importorskip("cuml", reason="cuML is not installed; it imports without a GPU")
    from cuml.linear_model import LogisticRegression as Theirs

    for method in ("__init__", "fit"):
        ours = inspect.signature(getattr(LogisticRegression, method)).parameters
        theirs = inspect.signature(getattr(Theirs, method)).parameters
        used = {"__init__": {"tol", "C", "max_iter", "output_type"}, "fit": {"X", "y", "sample_weight"}}[method]
        assert used <= set(theirs) & set(ours)
        assert all(ours[name].default == theirs[name].default for name in used)
