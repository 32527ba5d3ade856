"""Compiled kernels agree with the same formulas in float64, and paths with them with paths without them."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.probe_cases import Floats, mixture, softmax_objective
from support.processors import pretend
from torch import Tensor

from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.kernels import kernels
from penultimate.engine.probe.kernels.kernels import OTHERS, CompiledMatrix, Kernels, amx_kernels, float_kernels
from penultimate.engine.probe.objective.losses import Softmax, Targets
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.runtime import capabilities
from penultimate.store.errors import UnavailableError

# Shapes: N samples, K classes, S strengths, R columns of features, X rows of a class, M other points of a space.

pytestmark = pytest.mark.capability
needs_amx = pytest.mark.skipif(amx_kernels() is None, reason="no AMX bfloat16 here, or no compiled kernels")
needs_compiled = pytest.mark.skipif(float_kernels() is None, reason="no kernels were compiled for this processor")

SIZES = {
    "many classes": (1030, 320, 102, 1),
    "fewer rows than a tile": (7, 32, 3, 1),
    "one row beyond a tile": (33, 64, 2, 2),
    "float32 sums are emptied, last in the middle": (9001, 96, 17, 2),
    "emptied once, exactly at the end": (8192, 32, 5, 4),
    "emptied several times by each of two threads": (20_011, 32, 3, 2),
}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
weighting = pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])

TWICE, ONCE, SINGLE = 2.0**-15, 2.0**-7, 2.0**-20
"""Rounding of a sum of products of bfloat16 pairs, of single bfloat16, and of float32, relative to its norm."""


@dataclass(frozen=True)
class Compiled:
    """One set of kernels, and how exact it is."""

    kernels: Kernels
    full: float
    low: float
    """Rounding of products for the Hessian."""

    def matrix(self, features_NR: Tensor) -> CompiledMatrix:
        """Return the features in the form that these kernels read."""
        make = CompiledMatrix.on_amx if self.low == ONCE else CompiledMatrix.in_float32
        return make(self.kernels, features_NR)


@pytest.fixture(params=["amx", *capabilities.FLOAT_EXTENSIONS])
def compiled(request: pytest.FixtureRequest) -> Compiled:
    """Return each set of kernels that was compiled and runs here; skip the others."""
    if request.param == "amx":
        found, precision = amx_kernels(), (TWICE, ONCE)
    else:
        path = capabilities.FLOAT_EXTENSIONS[request.param]
        found, precision = kernels._float_kernels_at(path) if path.exists() else None, (SINGLE, SINGLE)
    if found is None:
        pytest.skip(f"no {request.param} here, or no kernels compiled for it")
    return Compiled(found, *precision)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(size: int, classes: int) -> Tensor:
    return torch.randint(classes, (size,), generator=torch.Generator().manual_seed(1))


def sample_weights(size: int, *, weighted: bool) -> tuple[Tensor | None, Tensor]:
    """Return weights as ``RotatedFeatures.sample_weight_N`` holds them, and the weight of each sample."""
    if not weighted:
        return None, torch.full((size,), 1 / size, dtype=torch.float64)
    weight_N = torch.rand(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weight_N[size // 2] = 0
    weight_N /= weight_N.sum()
    return weight_N, weight_N


def residuals(rows: int, classes: int, strengths: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw probabilities (S, K, N) in float64, residuals in float32 and labels of samples."""
    index_N = labels(rows, classes)
    scores_SKN = 3 * drawn(strengths, classes, rows, seed=3).double()
    truth_KN = torch.nn.functional.one_hot(index_N, classes).T
    probability_SKN = scores_SKN.softmax(1)
    return probability_SKN, (probability_SKN - truth_KN).float(), index_N


def hessian_product(probability_SKN: Tensor, change_SKN: Tensor) -> Tensor:
    """Return (diag(p) - p p') times the change, for each sample."""
    return probability_SKN * (change_SKN - (probability_SKN * change_SKN).sum(1, keepdim=True))


def error(found: Tensor, wanted: Tensor) -> float:
    """Return the distance relative to the norm."""
    assert found.shape == wanted.shape
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@sizes
def test_products_keep_their_bits(size: tuple[int, int, int, int], compiled: Compiled) -> None:
    rows, columns, classes, _ = size
    features_NR = drawn(rows, columns)
    matrix = compiled.matrix(features_NR)
    weight_KR, values_KN = drawn(classes, columns, seed=4), drawn(classes, rows, seed=5)
    assert error(matrix.scores(weight_KR), weight_KR.double() @ features_NR.double().T) < compiled.full
    assert error(matrix.gather(values_KN, 0.5), 0.5 * values_KN.double() @ features_NR.double()) < compiled.full
    assert torch.equal(matrix.low_NR, features_NR.to(matrix.low_NR.dtype))


@sizes
@weighting
def test_gradient_hessian_and_moments_are_those_of_the_definition(
    size: tuple[int, int, int, int], weighted: bool, compiled: Compiled
) -> None:
    rows, columns, classes, strengths = size
    features_NR, direction_SKR = drawn(rows, columns), drawn(strengths, classes, columns, seed=4)
    probability_SKN, residual_SKN, index_N = residuals(rows, classes, strengths)
    weight_N, each_N = sample_weights(rows, weighted=weighted)
    shift_SK = drawn(strengths, classes, seed=6).double() / 10
    matrix, features = compiled.matrix(features_NR), features_NR.double()

    moved_SKN = residual_SKN.double() + hessian_product(
        probability_SKN, shift_SK[:, :, None].expand_as(probability_SKN)
    )
    gradient_SKR = matrix.softmax_gradient(residual_SKN, shift_SK, index_N, weight_N)
    assert error(gradient_SKR, (moved_SKN * each_N) @ features) < compiled.full

    scores_SKN = direction_SKR.double() @ features.T
    product_SKN = hessian_product(probability_SKN, scores_SKN)
    product_SKR = matrix.softmax_hessian(residual_SKN, index_N, weight_N, direction_SKR)
    if compiled.low == SINGLE:
        for halfway in (True, False):
            inputs = residual_SKN, index_N, weight_N, direction_SKR
            found_SKN, curvature_S, found_SKR = matrix.softmax_halves(*inputs, halfway=halfway)
            assert error(found_SKN, scores_SKN) < compiled.full
            assert error(curvature_S, ((scores_SKN * product_SKN).sum(1) @ each_N)) < compiled.full
            assert (found_SKR is None) == halfway
        assert found_SKR is not None
        assert torch.equal(found_SKR, product_SKR)
    assert error(product_SKR, (product_SKN * each_N) @ features) < compiled.low
    assert float(product_SKR.sum(1).abs().max()) < 1e-5 * float(product_SKR.abs().max()) * classes

    joint_SKK, bias_SK = matrix.softmax_moments(residual_SKN, index_N, weight_N)
    assert error(joint_SKK, (probability_SKN * each_N) @ probability_SKN.transpose(1, 2)) < compiled.full
    assert float((bias_SK - residual_SKN.double() @ each_N).abs().max()) < 1e-6


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_softmax_agrees_with_torch_at_any_scale(scale: float, compiled: Compiled) -> None:
    scores_SKN, index_N = scale * drawn(2, 19, 173), labels(173, 19)
    loss_SN, residual_SKN = compiled.matrix(drawn(32, 32)).softmax(scores_SKN, index_N)
    wanted_SN, wanted_SKN = Softmax().evaluate(scores_SKN.double(), Targets(index_N, torch.empty(0, 0)))
    assert torch.allclose(loss_SN.double(), wanted_SN, rtol=1e-6, atol=1e-38)
    # Denormal probabilities have fewer digits; a probability's relative error grows with its exponent.
    assert torch.allclose(residual_SKN.double(), wanted_SKN, rtol=2e-5, atol=1e-37)


@weighting
@pytest.mark.parametrize("points", range(1, OTHERS + 1))
def test_a_space_of_scores_has_the_derivatives_that_autograd_finds(
    points: int, weighted: bool, compiled: Compiled
) -> None:
    rows, classes = 101, 10
    first_KN, *others = [4 * drawn(classes, rows, seed=7 + n) for n in range(points + 1)]
    index_N, (weight_N, each_N) = labels(rows, classes), sample_weights(rows, weighted=weighted)
    at_M = drawn(points, seed=3).double().requires_grad_()

    moved_KN = sum(at * (other_KN - first_KN).double() for at, other_KN in zip(at_M, others, strict=True))
    loss_N = torch.nn.functional.cross_entropy((first_KN.double() + moved_KN).T, index_N, reduction="none")
    wanted = each_N @ loss_N
    (wanted_M,) = torch.autograd.grad(wanted, at_M, create_graph=True)
    wanted_MM = torch.stack([torch.autograd.grad(slope, at_M, retain_graph=True)[0] for slope in wanted_M])

    loss, gradient_M, hessian_MM = compiled.matrix(drawn(32, 32)).softmax_space(
        first_KN, others, index_N, weight_N, at_M.detach().tolist()
    )
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert error(gradient_M, wanted_M.detach()) < 1e-4
    assert error(hessian_MM, wanted_MM) < 1e-4


def test_low_rank_blocks_are_solved_for(compiled: Compiled) -> None:
    """Return the residual over a diagonal minus the correction of the rows; the Gram matrix is A D^-1 A'."""
    rows, columns, classes, chosen, strengths = 300, 96, 5, 7, 2
    features_NR, matrix = drawn(rows, columns), compiled.matrix(drawn(rows, columns))
    index_KX = torch.stack([torch.randperm(rows)[:chosen] for _ in range(classes)])
    inverse_KR, residual_SKR = drawn(classes, columns, seed=8).abs(), drawn(strengths, classes, columns, seed=9)
    rows_KXR = features_NR.to(matrix.low_NR.dtype)[index_KX].double()

    wanted_KXX = (rows_KXR * inverse_KR.double()[:, None]) @ rows_KXR.transpose(1, 2)
    assert error(matrix.low_rank_gram(index_KX, inverse_KR), wanted_KXX) < 1e-12

    inner_KXX = torch.linalg.inv(wanted_KXX + torch.eye(chosen)).contiguous()
    scaled_SKR = inverse_KR.double() * residual_SKR
    projected_SKX = (rows_KXR @ scaled_SKR[..., None])[..., 0]
    back_SKR = ((inner_KXX @ projected_SKX[..., None]).transpose(2, 3) @ rows_KXR)[:, :, 0]
    wanted_SKR = scaled_SKR - inverse_KR.double() * back_SKR
    assert error(matrix.low_rank_solve(index_KX, inverse_KR, inner_KXX, residual_SKR), wanted_SKR) < 1e-5


def test_torchs_number_of_threads_is_taken_and_any_gives_the_same_within_rounding(compiled: Compiled) -> None:
    features_NR, values_KN = drawn(3000, 64), drawn(20, 3000, seed=5)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert compiled.kernels.num_threads() == count
            found.append(compiled.matrix(features_NR).gather(values_KN, 1.0))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert error(other, found[0]) < 1e-6


def test_a_pass_has_the_same_bits_however_its_threads_wait_for_each_other(compiled: Compiled) -> None:
    features_NR, (_, residual_SKN, index_N) = drawn(3000, 64), residuals(3000, 5, 2)
    matrix, direction_SKR = compiled.matrix(features_NR), drawn(2, 5, 64, seed=4)
    shift_SK, threads = drawn(2, 5, seed=6), torch.get_num_threads()

    def passes() -> list[Tensor]:
        gradient = matrix.softmax_gradient(residual_SKN, shift_SK, index_N, None)
        product = matrix.softmax_hessian(residual_SKN, index_N, None, direction_SKR)
        moments = matrix.softmax_moments(residual_SKN, index_N, None)
        _, *derivatives = matrix.softmax_space(residual_SKN[0], [residual_SKN[1]], index_N, None, [0.5])
        return [gradient, product, *moments, *derivatives, matrix.scores(direction_SKR.flatten(0, 1))]

    try:
        torch.set_num_threads(3 * threads + 1)  # more than cores, so that they wait for each other
        first = passes()
        for _ in range(30):
            assert all(torch.equal(one, other) for one, other in zip(first, passes(), strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(params=["compiled float32", "float32", "bfloat16"])
def without_amx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Simulate a machine without AMX, or without compiled kernels; products are then made in that precision."""

    def take() -> str:
        if request.param == "bfloat16":
            monkeypatch.setattr(capabilities, "EXTENSION", Path("/nowhere"))
        else:
            pretend(monkeypatch, "avx2")
        if request.param != "compiled float32":
            monkeypatch.setattr(capabilities, "FLOAT_EXTENSIONS", {})
        elif float_kernels() is None:
            pytest.skip("no kernels were compiled for AVX2")
        assert amx_kernels() is None
        return f"float32/{request.param.removeprefix('compiled ')}"

    return take


def path_of(
    features_ND: Floats, labels_N: NDArray[np.int64], weight_N: Floats | None, *, precision: str
) -> list[float]:
    """Return the objectives of a path, each recomputed from its weights."""
    path = RegularizationPath.spaced(1e-2, 1e3, 12)
    probes = fit_path(features_ND, labels_N, FitSettings(num_classes=6, path=path), sample_weight_N=weight_N)
    for probe in probes:
        assert probe.report.certified
        assert probe.report.precision == precision
        if weight_N is None:
            found = softmax_objective(features_ND, labels_N, probe.weight_KD, probe.bias_K, probe.l2)
            assert probe.report.objective == pytest.approx(found, rel=1e-6)
    return [probe.report.objective for probe in probes]


@pytest.mark.slow
@needs_amx
@pytest.mark.parametrize(("rows", "dims"), [(3100, 350), (9100, 120)])
@weighting
def test_a_path_on_amx_is_that_without(rows: int, dims: int, weighted: bool, without_amx: Callable[[], str]) -> None:
    features_ND, labels_N = mixture(rows, dims, 6)
    weight_N = np.random.default_rng(0).uniform(0.5, 2, rows) if weighted else None
    on_amx = path_of(features_ND, labels_N, weight_N, precision="2xbfloat16/bfloat16")
    without = path_of(features_ND, labels_N, weight_N, precision=without_amx())
    assert on_amx == pytest.approx(without, rel=2e-6)  # each is within 1e-6 of the optimum


@pytest.mark.slow
@needs_compiled
@pytest.mark.parametrize(("rows", "dims"), [(3100, 350), (9100, 120)])
@weighting
def test_a_path_in_compiled_float32_is_that_of_torch(
    rows: int, dims: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "avx2")
    features_ND, labels_N = mixture(rows, dims, 6)
    weight_N = np.random.default_rng(0).uniform(0.5, 2, rows) if weighted else None
    found = path_of(features_ND, labels_N, weight_N, precision="float32/float32")
    monkeypatch.setattr(capabilities, "FLOAT_EXTENSIONS", {})
    on_torch = path_of(features_ND, labels_N, weight_N, precision="float32/float32")
    assert found == pytest.approx(on_torch, rel=2e-6)  # each is within 1e-6 of the optimum


@needs_compiled
def test_kernels_older_than_their_source_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx2")
    extension = capabilities.FLOAT_EXTENSIONS["avx2"]
    if not extension.exists():
        pytest.skip("no kernels were compiled for AVX2")
    for file in (extension, Path(kernels.__file__).with_name("float_passes.c")):
        shutil.copy2(file, tmp_path)
    source = tmp_path / "float_passes.c"
    os.utime(source, (source.stat().st_atime, source.stat().st_mtime + 1e9))
    monkeypatch.setattr(capabilities, "FLOAT_EXTENSIONS", {"avx2": tmp_path / extension.name})
    with pytest.raises(UnavailableError, match=r"older than float_passes\.c; run 'pip install --editable \.' again"):
        float_kernels()


def test_kernels_are_not_taken_that_the_processor_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may be said to have more than it has, as in these tests; instructions that it lacks would end it."""
    for processor in capabilities.CPU_CLASSES:
        pretend(monkeypatch, processor)
        found = float_kernels()
        assert found is None or found.library.supported()
