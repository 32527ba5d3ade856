"""fit_path: features and labels in, a certified Probe a strength out."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.probe.kernels.amx_softmax import in_memory
from penultimate.engine.probe.objective.design import SMALL, SMALL_JUMPING, Basis, Design, fast_low_precision
from penultimate.engine.probe.objective.losses import LOSSES, Loss, Targets
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe, SolveReport
from penultimate.engine.probe.solver.continuation import Chain
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError
from penultimate.store.labels import ABSENT, PRESENT, UNCOUNTED

# Shapes: N samples, D feature dimensions, K classes, A classes that have samples, S strengths, R turned columns.


def fit_path(
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
    """Fit every strength of ``path``, each from a start made of the solutions of others (``chain.py``).

    ``labels`` are class indices (N,) or, for the one-vs-rest losses, also a 0/1 matrix (N, K). ``tol`` is relative to
    the objective: see ``newton.py`` for the stopping rule. Classes without samples get zero weights and the bias -inf
    (-1 under the squared hinge), which is their optimum. Raises ``InputError`` for data that cannot be fitted, naming
    rows.
    """
    if loss not in LOSSES:
        raise UnknownNameError("loss", loss, LOSSES)
    chosen = LOSSES[loss]
    if not tol > 0:
        raise InputError(f"tol must be > 0, got {tol!r}")
    check_features(features_ND)
    check_labels(labels, len(features_ND), num_classes, multi_label=loss != "softmax")
    share_N, total_weight = check_weights(sample_weight_N, len(features_ND))
    if share_N is not None:  # a sample of no weight is none
        counted_N = share_N > 0
        features_ND, labels, share_N = features_ND[counted_N], labels[counted_N], share_N[counted_N]
    count_K = class_counts(labels, num_classes)
    active_A = active_classes(count_K, len(labels), chosen)
    place = torch_device(device)
    with torch.no_grad():
        dtype, low = precisions(features_ND.size, chosen, place)
        share = None if share_N is None else torch.from_numpy(share_N).to(place)
        features = torch.from_numpy(np.require(features_ND, requirements=["C", "W"])).to(place)
        design = Design(features, share_N=share, dtype=dtype, low=low)
        targets = make_targets(labels, active_A, chosen, dtype=dtype, device=place)
        problem = in_memory(design, chosen, targets)
        chain = Chain(problem, l2=path.l2, total_weight=total_weight, tol=tol)
        probes = {
            place: make_probe(weight_KR, design.basis, chosen, path.l2[place], report)
            for place, weight_KR, report in chain.solve(len(active_A))
        }
        return [expand(probes[place], active_A, count_K, chosen) for place in range(len(path))]


def precisions(size: int, loss: Loss, device: torch.device) -> tuple[torch.dtype, torch.dtype | None]:
    """Of products for gradients, and of those for the Hessian where they are made at a lower one, by N x D."""
    if size <= SMALL:
        return torch.float64, None
    if not loss.smooth and size <= SMALL_JUMPING:
        return torch.float64, fast_low_precision(device) or torch.float32
    return torch.float32, fast_low_precision(device)


def make_probe(weight_KR: Tensor, basis: Basis, loss: Loss, l2: float, report: SolveReport) -> Probe:
    """A solution in the features' own coordinates, float32."""
    weight_KD, bias_K = basis.weight(weight_KR)
    if loss.name == "softmax":  # which does not see what all classes share: leaving it out makes ||W|| smaller
        weight_KD, bias_K = weight_KD - weight_KD.mean(0), bias_K - bias_K.mean()
    return Probe(weight_KD=weight_KD.float().cpu().numpy(), bias_K=bias_K.float().cpu().numpy(), l2=l2, report=report)


def expand(probe: Probe, active_A: NDArray[np.int64], count_K: NDArray[np.int64], loss: Loss) -> Probe:
    """Put the fitted classes among all K; the others get the bias that is their optimum."""
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
    """Labels among the classes that are fitted, as ``loss`` wants them."""
    if loss.name == "softmax":
        index_N = np.searchsorted(active_A, labels).astype(np.int64)
        return Targets(torch.from_numpy(index_N).to(device), torch.empty(0, 0, device=device))
    has_AN = labels[:, active_A].T == PRESENT if labels.ndim == 2 else active_A[:, None] == labels
    sign_AN = torch.from_numpy(np.ascontiguousarray(has_AN)).to(device)
    return Targets(torch.empty(0, dtype=torch.int64, device=device), sign_AN.to(dtype) * 2 - 1)


def check_features(features_ND: NDArray[Any], *, first_row: int = 0) -> None:
    """Two axes, some rows, all finite: else an ``InputError`` that names rows."""
    if features_ND.ndim != 2 or 0 in features_ND.shape:
        raise InputError(f"features must be (N, D) with N and D > 0, got shape {features_ND.shape}")
    bad_B = np.flatnonzero(~np.isfinite(features_ND.sum(1, dtype=np.float64)))
    if len(bad_B):
        named = ", ".join(str(row + first_row) for row in bad_B[:10]) + (", ..." if len(bad_B) > 10 else "")
        raise InputError(f"features of {len(bad_B)} of {len(features_ND)} rows are NaN or infinite: rows {named}")


def check_labels(labels: NDArray[Any], num_rows: int, num_classes: int, *, multi_label: bool) -> None:
    """A label a row, class indices or (one-vs-rest) a matrix of ``store.labels`` marks: else an ``InputError``."""
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


def check_weights(sample_weight_N: NDArray[Any] | None, num_rows: int) -> tuple[NDArray[np.float64] | None, float]:
    """Shares of the samples (summing to 1, None where all are alike) and the sum of weights."""
    if sample_weight_N is None:
        return None, float(num_rows)
    weight_N = np.asarray(sample_weight_N, np.float64)
    if weight_N.shape != (num_rows,) or not np.isfinite(weight_N).all() or weight_N.min() < 0 or not weight_N.sum() > 0:
        raise InputError(f"sample weights must be {num_rows} finite numbers >= 0, not all 0")
    total = float(weight_N.sum())
    return weight_N / total, total


def class_counts(labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Samples of each class, (K,); one that is ``UNCOUNTED`` in a class does not have it."""
    if labels.ndim == 2:
        labels = labels == PRESENT
    count_K: NDArray[np.int64] = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=num_classes)
    return count_K


def active_classes(count_K: NDArray[np.int64], num_rows: int, loss: Loss) -> NDArray[np.int64]:
    """Classes to fit: those with a sample, and for one-vs-rest one without. Too few is an ``InputError``."""
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
    """The device asked for, or ``UnavailableError``."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"expected device 'cpu' or 'cuda', got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("no CUDA device here; use device='cpu'")
    return device
