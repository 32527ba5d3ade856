"""fit_path: features and labels in, a certified Probe a strength out."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.probe.design import SMALL, Basis, Design, fast_low_precision
from penultimate.engine.probe.losses import LOSSES, Loss, Targets
from penultimate.engine.probe.newton import Iterate, Newton
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.preconditioner import Preconditioner
from penultimate.engine.probe.probe_result import Probe, SolveReport
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError

BLOCK_COLUMNS = 40
"""Strengths are solved side by side up to so many columns of scores: below, a product takes as long with one."""

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
    start: Probe | None = None,
) -> list[Probe]:
    """Fit every strength of ``path``, strongest first, each from a start extrapolated along those before it.

    ``start`` is where the first strength begins (zero without it), for example a probe of part of the samples.
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
    sign_NK = check_labels(labels, len(features_ND), num_classes, multi_label=loss != "softmax")
    share_N, total_weight = check_weights(sample_weight_N, len(features_ND))
    active_A = active_classes(sign_NK, share_N, chosen)
    place = torch_device(device)
    with torch.no_grad():
        dtype = torch.float64 if features_ND.size <= SMALL else torch.float32
        low = fast_low_precision(place) if dtype == torch.float32 else None
        share = None if share_N is None else torch.from_numpy(share_N).to(place)
        features = torch.from_numpy(np.require(features_ND, requirements=["C", "W"])).to(place)
        design = Design(features, share_N=share, dtype=dtype, low=low)
        targets = make_targets(sign_NK[:, active_A], labels, active_A, chosen, dtype=dtype, device=place)
        begin = _iterate(design, start, active_A)
        solved = _solve_chain(design, chosen, targets, begin, path=path, total=total_weight, tol=tol)
        return [expand(probe, active_A, sign_NK, chosen) for probe in solved]


def _iterate(design: Design, start: Probe | None, active_A: NDArray[np.int64]) -> Iterate:
    """Zero, or ``start`` among the classes that are fitted; an infinite bias begins at the lowest finite one."""
    if start is None:
        shape = (len(active_A), design.matrix_NR.shape[1])
        weight_KR = torch.zeros(shape, dtype=torch.float64, device=design.matrix_NR.device)
    else:
        weight_KD, bias_K = start.weight_KD[active_A], start.bias_K[active_A].copy()
        finite_K = np.isfinite(bias_K)
        bias_K[~finite_K] = bias_K[finite_K].min(initial=0.0)
        weight_KR = design.turned(torch.from_numpy(weight_KD), torch.from_numpy(bias_K))
    return Iterate(weight_KR[None], design.scores(weight_KR)[None])


def _solve_chain(
    design: Design, loss: Loss, targets: Targets, begin: Iterate, *, path: RegularizationPath, total: float, tol: float
) -> list[Probe]:
    """One strength after the other, each started on the line through the last two."""
    device = design.matrix_NR.device
    before = last = begin
    preconditioner = Preconditioner(design, loss, targets)
    probes: list[Probe] = []
    width = max(1, BLOCK_COLUMNS // begin.weight_SKR.shape[1])
    for l2_S in (path.l2[start : start + width] for start in range(0, len(path), width)):
        newton = Newton(preconditioner, l2_S=torch.tensor(l2_S, device=device), total_weight=total, tol=tol)
        solved, reports = newton.solve(last.ahead(before, len(l2_S)))
        for weight_KR, l2, report in zip(solved.weight_SKR, l2_S, reports, strict=True):
            probes.append(_probe(weight_KR, design.basis, l2, report))
        before = Iterate(solved.weight_SKR[-2:-1], solved.scores_SKN[-2:-1]) if len(l2_S) > 1 else last
        last = solved.last()
    return probes


def _probe(weight_KR: Tensor, basis: Basis, l2: float, report: SolveReport) -> Probe:
    weight_KD, bias_K = basis.weight(weight_KR)
    return Probe(weight_KD=weight_KD.float().cpu().numpy(), bias_K=bias_K.float().cpu().numpy(), l2=l2, report=report)


def expand(probe: Probe, active_A: NDArray[np.int64], sign_NK: NDArray[np.bool_], loss: Loss) -> Probe:
    """Put the fitted classes among all K; the others get the bias that is their optimum."""
    num_classes = sign_NK.shape[1]
    if len(active_A) == num_classes:
        return probe
    weight_KD = np.zeros((num_classes, probe.weight_KD.shape[1]), np.float32)
    always_K = sign_NK.all(0)
    extreme = np.float32(np.inf if loss.smooth_bias else 1)
    bias_K = np.where(always_K, extreme, -extreme).astype(np.float32)
    weight_KD[active_A], bias_K[active_A] = probe.weight_KD, probe.bias_K
    return replace(probe, weight_KD=weight_KD, bias_K=bias_K)


def make_targets(
    sign_NA: NDArray[np.bool_],
    labels: NDArray[Any],
    active_A: NDArray[np.int64],
    loss: Loss,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Targets:
    """Labels among the classes that are fitted, as ``loss`` wants them."""
    if loss.name == "softmax":
        index_N = np.searchsorted(active_A, labels).astype(np.int64)
        return Targets(torch.from_numpy(index_N).to(device), torch.empty(0, 0, device=device))
    sign_AN = torch.from_numpy(np.ascontiguousarray(sign_NA.T)).to(device)
    return Targets(torch.empty(0, dtype=torch.int64, device=device), sign_AN.to(dtype) * 2 - 1)


def check_features(features_ND: NDArray[Any]) -> None:
    """Two axes, some rows, all finite: else an ``InputError`` that names rows."""
    if features_ND.ndim != 2 or 0 in features_ND.shape:
        raise InputError(f"features must be (N, D) with N and D > 0, got shape {features_ND.shape}")
    bad_B = np.flatnonzero(~np.isfinite(features_ND.sum(1, dtype=np.float64)))
    if len(bad_B):
        named = ", ".join(str(row) for row in bad_B[:10]) + (", ..." if len(bad_B) > 10 else "")
        raise InputError(f"features of {len(bad_B)} of {len(features_ND)} rows are NaN or infinite: rows {named}")


def check_labels(labels: NDArray[Any], num_rows: int, num_classes: int, *, multi_label: bool) -> NDArray[np.bool_]:
    """Which sample has which class, (N, K)."""
    if len(labels) != num_rows:
        raise InputError(f"expected a label a row, got {len(labels)} labels for {num_rows} rows")
    if labels.ndim == 2:
        if not multi_label:
            raise InputError("softmax needs one class a sample, got a label matrix; use loss='logistic'")
        if labels.shape[1] != num_classes or not np.isin(labels, (0, 1)).all():
            raise InputError(f"a label matrix must be (N, {num_classes}) of 0 and 1, got shape {labels.shape}")
        return labels.astype(bool)
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"labels must be integers in [0, {num_classes}), got {labels.dtype} {labels.min()}..{labels.max()}"
        )
    sign_NK: NDArray[np.bool_] = labels[:, None] == np.arange(num_classes)
    return sign_NK


def check_weights(sample_weight_N: NDArray[Any] | None, num_rows: int) -> tuple[NDArray[np.float64] | None, float]:
    """Shares of the samples (summing to 1, None where all are alike) and the sum of weights."""
    if sample_weight_N is None:
        return None, float(num_rows)
    weight_N = np.asarray(sample_weight_N, np.float64)
    if weight_N.shape != (num_rows,) or not np.isfinite(weight_N).all() or weight_N.min() < 0 or not weight_N.sum() > 0:
        raise InputError(f"sample weights must be {num_rows} finite numbers >= 0, not all 0")
    total = float(weight_N.sum())
    return weight_N / total, total


def active_classes(sign_NK: NDArray[np.bool_], share_N: NDArray[np.float64] | None, loss: Loss) -> NDArray[np.int64]:
    """Classes to fit: those with a sample, and for one-vs-rest one without. Too few is an ``InputError``."""
    counted_NK = sign_NK if share_N is None else sign_NK[share_N > 0]
    present_K = counted_NK.any(0)
    if loss.name == "softmax":
        if present_K.sum() < 2:
            raise InputError(
                f"softmax needs samples of at least 2 classes, got only class {np.flatnonzero(present_K).tolist()}"
            )
        return np.flatnonzero(present_K)
    varied_K = present_K & ~counted_NK.all(0)
    if not varied_K.any():
        raise InputError("no class has both samples with it and samples without it: nothing to fit")
    return np.flatnonzero(varied_K)


def torch_device(name: str) -> torch.device:
    """The device asked for, or ``UnavailableError``."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"expected device 'cpu' or 'cuda', got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("no CUDA device here; use device='cpu'")
    return device
