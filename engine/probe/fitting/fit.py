"""Fit linear probes down a whole path: features and labels in, a certified Probe for each strength out."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.probe.fitting.device_memory import DeviceMemory
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.solved_path import SolvedPath, certified, make_probe
from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.losses import LOSSES, Loss, Targets
from penultimate.engine.probe.objective.make_design import choose_precision, make_design
from penultimate.engine.probe.objective.rotated_features import Basis
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.solver.continuation import Continuation
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.engine.runtime.threads import shared_threads
from penultimate.store.errors import InputError, UnavailableError
from penultimate.store.labels import ABSENT, PRESENT, UNCOUNTED

# Shapes: N samples, D feature dimensions, K classes, A classes that have samples, R columns of the rotated features.

SERIAL = 1 << 23
"""Number of multiplications of a product with all features (N x D x K) up to which one thread makes it.

It takes a third of a millisecond; threads would wait for each other as long, and twice at every pass while another
program has one of their cores.
"""


class FittedPath(list[Probe]):
    """The solutions of a path, and the coordinates in which they were found; None where no strength took a step."""

    def __init__(self, probes: Iterable[Probe], *, num_rows: int, basis: Basis | None) -> None:
        super().__init__(probes)
        self.num_rows, self.basis = num_rows, basis


def fit_path(
    features_ND: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    settings: FitSettings,
    *,
    sample_weight_N: NDArray[np.floating[Any]] | None = None,
    start: Sequence[Probe] = (),
) -> FittedPath:
    """Fit every strength of the path, each from a start made of the solutions of others (``solver/continuation.py``).

    ``features_ND`` are (N, D) floats. ``labels`` are class indices (N,) or, for the one-vs-rest losses, also a 0/1
    matrix (N, K). ``sample_weight_N`` are N finite numbers >= 0; None: all samples count as 1. Returns one Probe for
    each strength, strongest first.

    Every strength whose rule a solution of ``start``, or the polynomial through several, meets as it is takes one
    gradient for its certificate; the others begin there where that is lower than what their neighbours say. A
    FittedPath of fewer or more rows, as of train where these are train and val, lends its axes, and none of its
    solutions is tried.

    Classes without samples get zero weights and the bias -inf (-1 under the squared hinge), which is their optimum.
    Raises ``InputError`` for data that cannot be fitted, naming rows, and for a fit that does not fit in a GPU's memory
    (``fit_streamed`` and the solver ``torch`` stream it), and ``UnavailableError`` for a device that is not here.
    """
    loss = LOSSES[settings.loss]
    check_features(features_ND)
    check_labels(labels, len(features_ND), settings.num_classes, multi_label=settings.loss != "softmax")
    weight_N, total_weight = normalized_weights(sample_weight_N, len(features_ND))
    if weight_N is not None:  # samples of weight 0 do not exist
        counted_N = weight_N > 0
        features_ND, labels, weight_N = features_ND[counted_N], labels[counted_N], weight_N[counted_N]
    count_K = class_counts(labels, settings.num_classes)
    active_A = active_classes(count_K, len(labels), loss)
    device = torch_device(settings.device)
    memory = DeviceMemory.planned(
        features_ND.shape, len(active_A), loss=settings.loss, weighted=weight_N is not None, device=device
    )
    if not memory.fits:
        raise InputError(f"{memory.sentence()}; stream the features with fit_streamed")
    serial = features_ND.size * len(active_A) <= SERIAL
    with torch.no_grad(), float32_arithmetic(), shared_threads(serial=serial) as adjust_threads:
        precision = choose_precision(features_ND.size, loss, device)
        weight = None if weight_N is None else torch.from_numpy(weight_N).to(device)
        targets = make_targets(labels, active_A, loss, dtype=precision.full, device=device)

        solved = start if isinstance(start, FittedPath) else None
        like = None if solved is None else solved.basis

        def problem(*, rotate: bool) -> InMemoryProblem:
            features = on_device(features_ND, device)
            design = make_design(features, sample_weight_N=weight, precision=precision, rotate=rotate, like=like)
            return InMemoryProblem(design, loss, targets, spare_bytes=memory.spare_bytes, adjust_threads=adjust_threads)

        probes, basis = dict[float, Probe](), None
        if start and (solved is None or solved.num_rows == len(features_ND)):
            probes = certified(problem(rotate=False), start, active_A, settings, total_weight)
        if rest := [l2 for l2 in settings.path.l2 if l2 not in probes]:
            rotated = problem(rotate=True)
            basis = rotated.features.basis
            probes |= _solve(rotated, start, active_A, rest, total_weight, settings.tol)
            failed = [l2 for l2 in rest if not probes[l2].report.certified]
            if start and failed:
                probes |= _solve(rotated, (), active_A, failed, total_weight, settings.tol)
    found = (expand(probes[l2], active_A, count_K, loss) for l2 in settings.path.l2)
    return FittedPath(found, num_rows=len(features_ND), basis=basis)


def _solve(
    problem: InMemoryProblem,
    start: Sequence[Probe],
    active_A: NDArray[np.int64],
    l2: Sequence[float],
    total_weight: float,
    tol: float,
) -> dict[float, Probe]:
    """Return a Probe of the fitted classes for each strength."""
    guess = None
    if start and problem.loss.smooth:
        columns = problem.features.matrix_NR.shape[1]
        guess = SolvedPath(start, active_A, problem.features.basis, problem.loss, columns=columns).at
    continuation = Continuation(problem, l2=l2, total_weight=total_weight, tol=tol, guess=guess)
    return {
        l2[index]: make_probe(*problem.design.unrotate(weight_KR), problem.loss, l2[index], report)
        for index, weight_KR, report in continuation.solve(len(active_A))
    }


def on_device(features_ND: NDArray[np.floating[Any]], device: torch.device) -> Tensor:
    """Return the features as a tensor: on a CPU it shares their memory, if that may be written to."""
    return torch.from_numpy(np.require(features_ND, requirements=["C", "W"])).to(device)


def expand(probe: Probe, active_A: NDArray[np.int64], count_K: NDArray[np.int64], loss: Loss) -> Probe:
    """Return the probe with all K classes; those that were not fitted get the bias that is their optimum."""
    if len(active_A) == len(count_K):
        return probe
    weight_KD = np.zeros((len(count_K), probe.weight_KD.shape[1]), np.float32)
    extreme = np.float32(np.inf if loss.smooth else 1)
    bias_K = np.where(count_K > 0, extreme, -extreme).astype(np.float32)
    weight_KD[active_A], bias_K[active_A] = probe.weight_KD, probe.bias_K
    return replace(probe, weight_KD=weight_KD, bias_K=bias_K)


def make_targets(
    labels: NDArray[Any], active_A: NDArray[np.int64], loss: Loss, *, dtype: torch.dtype, device: torch.device
) -> Targets:
    """Return the labels among the classes that are fitted, in the form that ``loss`` reads."""
    if loss.name == "softmax":
        index_N = np.searchsorted(active_A, labels).astype(np.int64)
        return Targets(torch.from_numpy(index_N).to(device), torch.empty(0, 0, device=device))
    has_AN = labels[:, active_A].T == PRESENT if labels.ndim == 2 else active_A[:, None] == labels
    sign_AN = torch.from_numpy(np.ascontiguousarray(has_AN)).to(device)
    return Targets(torch.empty(0, dtype=torch.int64, device=device), sign_AN.to(dtype) * 2 - 1)


def check_features(features_ND: NDArray[Any], *, first_row: int = 0) -> None:
    """Raise ``InputError``, naming rows, unless features are (N, D) with N and D > 0 and all finite."""
    if features_ND.ndim != 2 or 0 in features_ND.shape:
        raise InputError(f"features must be (N, D) with N and D > 0, got shape {features_ND.shape}")
    bad_B = np.flatnonzero(~np.isfinite(features_ND.sum(1, dtype=np.float64)))
    if len(bad_B):
        named = ", ".join(str(row + first_row) for row in bad_B[:10]) + (", ..." if len(bad_B) > 10 else "")
        raise InputError(f"features of {len(bad_B)} of {len(features_ND)} rows are NaN or infinite: rows {named}")


def check_labels(labels: NDArray[Any], num_rows: int, num_classes: int, *, multi_label: bool) -> None:
    """Raise ``InputError`` unless labels are class indices (N,) or, where allowed, a matrix as in ``store.labels``."""
    if len(labels) != num_rows:
        raise InputError(f"expected a label a row, got {len(labels)} labels for {num_rows} rows")
    if labels.ndim == 2:
        if not multi_label:
            raise InputError("softmax needs one class a sample, got a label matrix; use loss='logistic'")
        if labels.shape[1] != num_classes or not np.isin(labels, (ABSENT, PRESENT, UNCOUNTED)).all():
            raise InputError(f"a label matrix must be (N, {num_classes}) of 0, 1 and 2, got shape {labels.shape}")
    elif labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"labels must be integers in [0, {num_classes}), got {labels.dtype} {labels.min()}..{labels.max()}"
        )


def normalized_weights(sample_weight_N: NDArray[Any] | None, num_rows: int) -> tuple[NDArray[np.float64] | None, float]:
    """Return the weights divided by their sum (None where all samples count alike), and the sum.

    Raises ``InputError`` unless there are N finite weights >= 0, not all 0.
    """
    if sample_weight_N is None:
        return None, float(num_rows)
    weight_N = np.asarray(sample_weight_N, np.float64)
    if weight_N.shape != (num_rows,) or not np.isfinite(weight_N).all() or weight_N.min() < 0 or not weight_N.sum() > 0:
        raise InputError(f"sample weights must be {num_rows} finite numbers >= 0, not all 0")
    total = float(weight_N.sum())
    return weight_N / total, total


def class_counts(labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Return the number of samples of each class, (K,); a sample ``UNCOUNTED`` in a class does not have it."""
    if labels.ndim == 2:
        labels = labels == PRESENT
    count_K: NDArray[np.int64] = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=num_classes)
    return count_K


def active_classes(count_K: NDArray[np.int64], num_rows: int, loss: Loss) -> NDArray[np.int64]:
    """Return the classes to fit: those with a sample and, for one-vs-rest, also a sample without it.

    Raises ``InputError`` where there are too few.
    """
    if loss.name == "softmax":
        present = np.flatnonzero(count_K)
        if len(present) < 2:
            raise InputError(f"softmax needs samples of at least 2 classes, got only class {present.tolist()}")
        return present
    varied = np.flatnonzero((count_K > 0) & (count_K < num_rows))
    if not len(varied):
        raise InputError("no class has both samples with it and samples without it: nothing to fit")
    return varied


def torch_device(name: str) -> torch.device:
    """Return the device of this name, or raise ``UnavailableError`` where it is not here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"expected device 'cpu' or 'cuda', got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("no CUDA device here; use device='cpu'")
    return device
