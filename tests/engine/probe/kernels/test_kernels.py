"""Compiled passes on a CPU's matrix units, against the same formulas in float64; and paths with and without them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.probe_cases import Floats, mixture, softmax_objective
from support.processors import pretend
from torch import Tensor

from penultimate.engine.probe.fit import fit_path
from penultimate.engine.probe.kernels import kernels
from penultimate.engine.probe.kernels.kernels import OTHERS, MatrixUnits, library, softmax, softmax_space
from penultimate.engine.probe.objective.losses import Softmax, Targets
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.runtime import capabilities
from penultimate.store.errors import UnavailableError

# Shapes: N samples, K classes, S strengths, R columns of features, M rows of a class or points of a space.

pytestmark = pytest.mark.capability
needs_units = pytest.mark.skipif(library() is None, reason="no bfloat16 matrix units here, or no compiled passes")

SIZES = {
    "many classes": (1030, 320, 102, 1),
    "fewer rows than a tile": (7, 32, 3, 1),
    "one row beyond a tile": (33, 64, 2, 2),
    "float32 sums are emptied, last in the middle": (9001, 96, 17, 2),
    "emptied once, exactly at the end": (8192, 32, 5, 4),
}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
weighting = pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])

TWICE, ONCE = 2.0**-15, 2.0**-7
"""Rounding of a sum of products of bfloat16 pairs, and of single bfloat16, relative to its norm."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(size: int, classes: int) -> Tensor:
    return torch.randint(classes, (size,), generator=torch.Generator().manual_seed(1))


def shares(size: int, *, weighted: bool) -> tuple[Tensor | None, Tensor]:
    """As ``Design.share_N``, and the share of each sample."""
    if not weighted:
        return None, torch.full((size,), 1 / size, dtype=torch.float64)
    share_N = torch.rand(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    share_N[size // 2] = 0
    share_N /= share_N.sum()
    return share_N, share_N


def residuals(rows: int, classes: int, strengths: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (S, K, N) in float64, residuals in float32 and labels of samples."""
    index_N = labels(rows, classes)
    scores_SKN = 3 * drawn(strengths, classes, rows, seed=3).double()
    truth_KN = torch.nn.functional.one_hot(index_N, classes).T
    probability_SKN = scores_SKN.softmax(1)
    return probability_SKN, (probability_SKN - truth_KN).float(), index_N


def curved(probability_SKN: Tensor, change_SKN: Tensor) -> Tensor:
    """(diag(p) - p p') change of each sample."""
    return probability_SKN * (change_SKN - (probability_SKN * change_SKN).sum(1, keepdim=True))


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative to the norm."""
    assert found.shape == wanted.shape
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@needs_units
@sizes
def test_products_keep_sixteen_bits(size: tuple[int, int, int, int]) -> None:
    rows, columns, classes, _ = size
    features_NR = drawn(rows, columns)
    units = MatrixUnits(features_NR)
    weight_KR, values_KN = drawn(classes, columns, seed=4), drawn(classes, rows, seed=5)
    assert error(units.scores(weight_KR), weight_KR.double() @ features_NR.double().T) < TWICE
    assert error(units.gather(values_KN, 0.5), 0.5 * values_KN.double() @ features_NR.double()) < TWICE
    assert torch.equal(units.high_NR, features_NR.bfloat16())


@needs_units
@sizes
@weighting
def test_gradient_hessian_and_moments_are_those_of_the_definition(
    size: tuple[int, int, int, int], weighted: bool
) -> None:
    rows, columns, classes, strengths = size
    features_NR, direction_SKR = drawn(rows, columns), drawn(strengths, classes, columns, seed=4)
    probability_SKN, residual_SKN, index_N = residuals(rows, classes, strengths)
    share_N, part_N = shares(rows, weighted=weighted)
    shift_SK = drawn(strengths, classes, seed=6).double() / 10
    units, features = MatrixUnits(features_NR), features_NR.double()

    moved_SKN = residual_SKN.double() + curved(probability_SKN, shift_SK[:, :, None].expand_as(probability_SKN))
    gradient_SKR = units.softmax_gradient(residual_SKN, shift_SK, index_N, share_N)
    assert error(gradient_SKR, (moved_SKN * part_N) @ features) < TWICE

    product_SKN = curved(probability_SKN, direction_SKR.double() @ features.T)
    product_SKR = units.softmax_hessian(residual_SKN, index_N, share_N, direction_SKR)
    assert error(product_SKR, (product_SKN * part_N) @ features) < ONCE
    assert float(product_SKR.sum(1).abs().max()) < 1e-5 * float(product_SKR.abs().max()) * classes

    joint_SKK, bias_SK = units.softmax_moments(residual_SKN, index_N, share_N)
    assert error(joint_SKK, (probability_SKN * part_N) @ probability_SKN.transpose(1, 2)) < TWICE
    assert float((bias_SK - residual_SKN.double() @ part_N).abs().max()) < 1e-6


@needs_units
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_softmax_agrees_with_torch_at_any_scale(scale: float) -> None:
    scores_SKN, index_N = scale * drawn(2, 19, 173), labels(173, 19)
    loss_SN, residual_SKN = softmax(scores_SKN, index_N)
    wanted_SN, wanted_SKN = Softmax().evaluate(scores_SKN.double(), Targets(index_N, torch.empty(0, 0)))
    assert torch.allclose(loss_SN.double(), wanted_SN, rtol=1e-6, atol=1e-38)
    # Denormal probabilities have fewer digits; a probability's relative error grows with its exponent.
    assert torch.allclose(residual_SKN.double(), wanted_SKN, rtol=2e-5, atol=1e-37)


@needs_units
@weighting
@pytest.mark.parametrize("points", range(1, OTHERS + 1))
def test_a_space_of_scores_has_the_derivatives_that_autograd_finds(points: int, weighted: bool) -> None:
    rows, classes = 101, 10
    first_KN, *others = [4 * drawn(classes, rows, seed=7 + n) for n in range(points + 1)]
    index_N, (share_N, part_N) = labels(rows, classes), shares(rows, weighted=weighted)
    at_M = drawn(points, seed=3).double().requires_grad_()

    moved_KN = sum(at * (other_KN - first_KN).double() for at, other_KN in zip(at_M, others, strict=True))
    loss_N = torch.nn.functional.cross_entropy((first_KN.double() + moved_KN).T, index_N, reduction="none")
    wanted = part_N @ loss_N
    (wanted_M,) = torch.autograd.grad(wanted, at_M, create_graph=True)
    wanted_MM = torch.stack([torch.autograd.grad(slope, at_M, retain_graph=True)[0] for slope in wanted_M])

    loss, slope_M, bend_MM = softmax_space(first_KN, others, index_N, share_N, at_M.detach().tolist())
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert error(slope_M, wanted_M.detach()) < 1e-4
    assert error(bend_MM, wanted_MM) < 1e-4


@needs_units
def test_curved_rows_are_solved_for() -> None:
    """``residual`` over a diagonal, less what the rows take; ``middle`` is A D A' itself."""
    rows, columns, classes, chosen, strengths = 300, 96, 5, 7, 2
    features_NR, units = drawn(rows, columns), MatrixUnits(drawn(rows, columns))
    index_KM = torch.stack([torch.randperm(rows)[:chosen] for _ in range(classes)])
    inverse_KR, residual_SKR = drawn(classes, columns, seed=8).abs(), drawn(strengths, classes, columns, seed=9)
    rows_KMR = features_NR.bfloat16()[index_KM].double()

    wanted_KMM = (rows_KMR * inverse_KR.double()[:, None]) @ rows_KMR.transpose(1, 2)
    assert error(units.curved_middle(index_KM, inverse_KR), wanted_KMM) < 1e-12

    middle_KMM = torch.linalg.inv(wanted_KMM + torch.eye(chosen)).contiguous()
    scaled_SKR = inverse_KR.double() * residual_SKR
    seen_SKM = (rows_KMR @ scaled_SKR[..., None])[..., 0]
    taken_SKR = ((middle_KMM @ seen_SKM[..., None]).transpose(2, 3) @ rows_KMR)[:, :, 0]
    wanted_SKR = scaled_SKR - inverse_KR.double() * taken_SKR
    assert error(units.curved_solve(index_KM, inverse_KR, middle_KMM, residual_SKR), wanted_SKR) < 1e-5


@needs_units
def test_torchs_number_of_threads_is_taken_and_any_gives_the_same_within_rounding() -> None:
    features_NR, values_KN = drawn(3000, 64), drawn(20, 3000, seed=5)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert kernels._loaded().num_threads() == count
            found.append(MatrixUnits(features_NR).gather(values_KN, 1.0))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert error(other, found[0]) < 1e-6


@pytest.fixture(params=["float32", "bfloat16"])
def without_units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Takes the units away, or only what was compiled for them; torch then multiplies Hessians in that precision."""

    def take() -> str:
        if request.param == "float32":
            pretend(monkeypatch, "avx2")
        else:
            monkeypatch.setattr(capabilities, "EXTENSION", Path("/nowhere"))
        assert library() is None
        return f"float32/{request.param}"

    return take


def path_of(
    features_ND: Floats, labels_N: NDArray[np.int64], weight_N: Floats | None, *, precision: str
) -> list[float]:
    """Objectives of a path, each recomputed from its weights."""
    path = RegularizationPath.spaced(1e-2, 1e3, 12)
    probes = fit_path(features_ND, labels_N, num_classes=6, path=path, sample_weight_N=weight_N)
    for probe in probes:
        assert probe.report.certified
        assert probe.report.precision == precision
        if weight_N is None:
            found = softmax_objective(features_ND, labels_N, probe.weight_KD, probe.bias_K, probe.l2)
            assert probe.report.objective == pytest.approx(found, rel=1e-6)
    return [probe.report.objective for probe in probes]


@needs_units
@pytest.mark.parametrize(("rows", "dims"), [(3100, 350), (9100, 120)])
@weighting
def test_a_path_on_units_is_that_without(
    rows: int, dims: int, weighted: bool, without_units: Callable[[], str]
) -> None:
    features_ND, labels_N = mixture(rows, dims, 6)
    weight_N = np.random.default_rng(0).uniform(0.5, 2, rows) if weighted else None
    on_units = path_of(features_ND, labels_N, weight_N, precision="2xbfloat16/bfloat16")
    without = path_of(features_ND, labels_N, weight_N, precision=without_units())
    assert on_units == pytest.approx(without, rel=2e-6)  # each is within 1e-6 of the optimum


@needs_units
def test_passes_compiled_from_another_source_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in Path(kernels.__file__).parent.glob("*kernels.c*"):
        shutil.copy2(file, tmp_path)
    source = tmp_path / "kernels.c"
    os.utime(source, (source.stat().st_atime, source.stat().st_mtime + 1e9))
    monkeypatch.setattr(capabilities, "EXTENSION", tmp_path / capabilities.EXTENSION.name)
    with pytest.raises(UnavailableError, match=r"older than kernels\.c; run 'pip install --editable \.' again"):
        library()
