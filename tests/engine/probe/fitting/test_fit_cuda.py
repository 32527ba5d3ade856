"""On a (simulated) GPU every fit stays on the device, agrees with the CPU's, and rarely makes the host wait."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.probe_cases import mixture
from support.simulated_cuda import SimulatedCuda, simulated_cuda

from penultimate.engine.probe.fitting import device_memory
from penultimate.engine.probe.fitting.device_memory import DeviceMemory
from penultimate.engine.probe.fitting.fit import fit_path, make_targets, on_device
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.fit_streamed import fit_streamed
from penultimate.engine.probe.fitting.solvers import torch_path
from penultimate.engine.probe.objective import make_design, pieces, rotated_features, torch_design
from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.objective.make_design import choose_precision
from penultimate.engine.probe.objective.problem import Point
from penultimate.engine.probe.objective.streamed import RowSource
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.preconditioners import choose, support_vectors
from penultimate.engine.probe.preconditioners.block_diagonal import BlockDiagonal
from penultimate.engine.probe.preconditioners.low_rank import LowRank
from penultimate.engine.probe.preconditioners.support_vectors import SupportVectors
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.solver import conjugate_gradient, continuation, newton
from penultimate.engine.probe.solver.conjugate_gradient import Checks
from penultimate.engine.probe.solver.node_space import MAX_EVALUATIONS, Node, NodeSpace
from penultimate.store.errors import InputError

# Shapes: N samples, D feature dimensions, K classes.

K = 4
PATH = RegularizationPath.parse("1e-2:1e2:3")
FEW = RegularizationPath(l2=(10.0,))


@pytest.fixture
def cuda() -> Iterator[SimulatedCuda]:
    with simulated_cuda() as device:
        yield device


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let problems of a test's size run in float32 and bfloat16, as large ones do."""
    monkeypatch.setattr(make_design, "SMALL", 0)
    monkeypatch.setattr(make_design, "SMALL_NONSMOOTH", 0)
    monkeypatch.setattr(rotated_features, "LOW_ROWS", 50)  # in float32 alone, 50 rows and more tell the axes


def multi_label(rows: int = 300) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return samples of one or two classes."""
    features_ND, labels_N = mixture(rows)
    labels_NK = (labels_N[:, None] == np.arange(K)).astype(np.int64)
    labels_NK[::5, 0] = 1
    return features_ND, labels_NK


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "softmax": ("softmax", {}),
    "logistic": ("logistic", {}),
    "squared hinge": ("squared_hinge", {}),
    "weighted": ("softmax", {"weighted": True}),
    "weighted one-vs-rest": ("logistic", {"weighted": True}),
    "fewer samples than dimensions": ("softmax", {"shape": (60, 90)}),
    "multi-label": ("logistic", {"multi_label": True}),
}


def in_short(*names: str) -> Iterator[Any]:
    """Yield all cases, of which ``make test`` runs these alone."""
    return (pytest.param(case, marks=() if case in names else pytest.mark.slow) for case in CASES)


def fitted(loss: str, device: str, *, weighted: bool = False, shape: tuple[int, int] = (300, 12), **case: Any) -> Any:
    features_ND, labels = multi_label() if case.get("multi_label") else mixture(*shape)
    weight_N = np.random.default_rng(0).uniform(0.5, 2, len(labels)) if weighted else None
    settings = FitSettings(num_classes=K, path=PATH, loss=loss, device=device)
    return fit_path(features_ND, labels, settings, sample_weight_N=weight_N)


def agree(on_gpu: list[Probe], on_cpu: list[Probe]) -> None:
    """Compare objectives, each of which is within 1e-6 of the optimum."""
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-6)


@pytest.mark.parametrize("case", [*in_short("squared hinge", "multi-label")])
def test_fits_agree_with_the_cpu_s_and_stay_on_the_device(case: str, cuda: SimulatedCuda) -> None:
    """Mixed devices raise; what comes back are the numbers that the host decides by, and the solutions."""
    loss, options = CASES[case]
    on_gpu = fitted(loss, "cuda", **options)
    assert cuda.launches.total() > 1000
    agree(on_gpu, fitted(loss, "cpu", **options))
    for inner_loop in ("conjugate_gradient.py", "in_memory.py", "duality_gap.py"):
        assert cuda.to_host.within(inner_loop) == 0, cuda.to_host.table()


@pytest.mark.capability
@pytest.mark.parametrize("case", [*in_short("weighted one-vs-rest")])
def test_fits_agree_in_float32_and_bfloat16(case: str, cuda: SimulatedCuda, float32: None) -> None:
    loss, options = CASES[case]
    if loss == "squared_hinge":
        pytest.skip("its slack needs float64 at this size")
    agree(fitted(loss, "cuda", **options), fitted(loss, "cpu", **options))


@pytest.mark.slow
def test_cut_into_pieces_a_fit_is_the_same(cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [fitted(loss, "cuda", weighted=weighted) for loss in ("softmax", "logistic") for weighted in (False, True)]
    monkeypatch.setattr(pieces, "GPU_NUMBERS", 500)
    again = [fitted(loss, "cuda", weighted=weighted) for loss in ("softmax", "logistic") for weighted in (False, True)]
    for one, other in zip(whole, again, strict=True):
        agree(one, other)


PRECONDITIONERS = {"block-diagonal": BlockDiagonal, "low-rank": LowRank, "diagonal": None}


def prefer(kind: type | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fits use this preconditioner, from the second node on."""
    monkeypatch.setattr(BlockDiagonal, "suits", staticmethod(lambda problem, classes: kind is BlockDiagonal))
    monkeypatch.setattr(choose, "MIN_PRODUCTS", 10**9 if kind is None else 0)
    for made in (BlockDiagonal, LowRank):
        monkeypatch.setattr(made, "cost", staticmethod(lambda problem, classes: 0))


@pytest.mark.capability
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "block-diagonal" else pytest.mark.slow) for n in PRECONDITIONERS]
)
def test_every_preconditioner_agrees_with_the_cpu(
    name: str, cuda: SimulatedCuda, float32: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(PRECONDITIONERS[name], monkeypatch)
    agree(fitted("softmax", "cuda"), fitted("softmax", "cpu"))
    made = {"block-diagonal": "block_diagonal.py", "low-rank": "low_rank.py", "diagonal": "diagonal.py"}
    assert {file for file in made.values() if cuda.launches.within(file)} == {"diagonal.py", made[name]}


def test_support_vectors_are_used_and_agree(cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(SupportVectors, "cost", staticmethod(lambda problem, point: 0))
    agree(fitted("squared_hinge", "cuda"), fitted("squared_hinge", "cpu"))
    assert cuda.launches.within("support_vectors.py") > 0


def problem_on(device: str, loss: str, *, rows: int = 400) -> tuple[InMemoryProblem, Point]:
    """Make a problem of unlike classes, and the point of zero weights."""
    features_ND, labels_N = mixture(rows, 20)
    there, kind = torch.device(device), LOSSES[loss]
    precision = choose_precision(features_ND.size, kind, there)
    design = make_design.make_design(on_device(features_ND, there), sample_weight_N=None, precision=precision)
    targets = make_targets(labels_N, np.arange(K), kind, dtype=precision.full, device=there)
    problem = InMemoryProblem(design, kind, targets)
    return problem, problem.start(problem.mean_square_R.new_zeros(1, K, len(problem.mean_square_R)))


LAUNCHES = {"softmax": 62, "logistic": 54, "squared_hinge": 54}
"""Kernels of a CG iteration, at most: the Hessian product about 20, CG itself 15, a tenth of what a check takes."""


@pytest.mark.parametrize("loss", LOSSES)
def test_a_newton_step_lets_the_host_wait_twice_and_a_cg_iteration_a_tenth_of_that(
    loss: str, cuda: SimulatedCuda, float32: None
) -> None:
    """Whether to stop; whether to shorten the step, with the precision of the next; and CG, every ten iterations."""
    problem, zero = problem_on("cuda", loss)
    l2_S = torch.tensor([100.0 if loss == "squared_hinge" else 1e-2], dtype=torch.float64, device="cuda")
    solver = newton.Newton(problem, choose.PreconditionerChoice(problem), l2_S=l2_S, total_weight=400, tol=1e-4)
    cuda.reset()
    _, (report,) = solver.solve(zero)
    assert report.certified
    assert report.curvature_passes >= 10
    in_cg = cuda.syncs.within("conjugate_gradient.py")
    assert in_cg <= report.steps + report.curvature_passes / 10, cuda.syncs.table()
    once = 3  # the precision of the start's gradients, whether that is the optimum, and the report
    assert cuda.syncs.total() - in_cg <= 2 * report.steps + once, cuda.syncs.table()
    assert cuda.to_host.total() == 1, cuda.to_host.table()  # the report
    assert cuda.to_device.total() == 0, cuda.to_device.table()
    assert cuda.launches.within("conjugate_gradient.py") <= LAUNCHES[loss] * report.curvature_passes


def test_long_products_are_not_multiplied_in_vain(cuda: SimulatedCuda) -> None:
    short, long = (
        Checks.planned(operations, torch.device("cuda"), forcing=0.02, reduction=0.5) for operations in (1e9, 1e12)
    )
    assert (long.first, long.every) == (1, 1)
    assert (short.first, short.every) == (10, 10)  # ten, for 12 would be needed
    assert Checks.planned(1e9, torch.device("cpu"), forcing=0.02, reduction=0.5) == Checks(1, 1)
    soon = Checks.planned(1e9, torch.device("cuda"), forcing=0.02, reduction=0.05)
    assert [iteration for iteration in range(1, 30) if soon.due(iteration)] == [3, 13, 23]


def test_an_evaluation_of_a_start_lets_the_host_wait_once(cuda: SimulatedCuda) -> None:
    problem, zero = problem_on("cuda", "softmax")
    points = [problem.start(torch.randn_like(zero.weight_SKR) * size) for size in (0.0, 0.01, 0.02, 0.03)]
    nodes = [
        Node(-float(n), p.weight_SKR[0], p.scores_SKN[0]) for n, p in enumerate(points) if p.scores_SKN is not None
    ]
    cuda.reset()
    space = NodeSpace(problem, nodes[::-1], 1e-4)
    assert cuda.syncs.total() == 1
    space.lowest(-5.0)
    assert cuda.syncs.total() <= 1 + MAX_EVALUATIONS


def test_products_of_bfloat16_stay_float32(cuda: SimulatedCuda, float32: None) -> None:
    """Rounded to bfloat16, a Hessian product of the CPU's torch is off by 0.4 % besides its operands' own rounding."""
    problem, zero = problem_on("cuda", "softmax")
    assert zero.residual_SKN is not None
    matrix_NR = problem.design.low_NR.cpu().double()
    residual_KN = zero.residual_SKN[0].cpu().double()
    direction_KR = torch.randn(K, matrix_NR.shape[1]).bfloat16()
    found_KR = problem.hessian_product(zero, direction_KR[None].float().to("cuda"), exact=False)[0].cpu().double()
    probability_KN = residual_KN + (residual_KN < 0)
    scores_KN = direction_KR.double() @ matrix_NR.T
    change_KN = probability_KN * (scores_KN - (probability_KN * scores_KN).sum(0))
    rounded_KR = change_KN.bfloat16().double() @ matrix_NR / 400
    wanted_KR = rounded_KR - rounded_KR.mean(0)
    assert float((found_KR - wanted_KR).norm() / wanted_KR.norm()) < 5e-4  # the product of scores is rounded as well


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_certificates_hold_where_the_process_allows_tf32(weighted: bool, cuda: SimulatedCuda, float32: None) -> None:
    plain = fitted("softmax", "cuda", weighted=weighted)
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "tf32"
    try:
        again = fitted("softmax", "cuda", weighted=weighted)
        assert products.fp32_precision == "tf32"  # the user's setting is back
    finally:
        products.fp32_precision = before
    assert [probe.report.gap for probe in plain] == [probe.report.gap for probe in again]
    assert all(np.array_equal(one.weight_KD, other.weight_KD) for one, other in zip(plain, again, strict=True))


# --- memory ---

SCALE = 1000
IMAGENET = (12_800, 205, 100)
"""ImageNet's 1.28 million samples of 2,048 dimensions and 1,000 classes, a hundredth, a tenth and a tenth of them, so
that N x D, N x K and K x D x D are a thousandth."""


@pytest.fixture
def thousandth(monkeypatch: pytest.MonkeyPatch, float32: None) -> None:
    """Scale what is counted in numbers to a thousandth, and let every fit be short."""
    monkeypatch.setattr(pieces, "GPU_NUMBERS", pieces.GPU_NUMBERS // SCALE)
    monkeypatch.setattr(device_memory, "GPU_NUMBERS", pieces.GPU_NUMBERS)
    monkeypatch.setattr(continuation, "LARGE", continuation.LARGE // SCALE)
    monkeypatch.setattr(torch_design, "ROWS", torch_design.ROWS // 10)
    monkeypatch.setattr(rotated_features, "TILE", 16)  # 208 columns, as 2,080 are padded to
    monkeypatch.setattr(newton, "STEP_LIMIT", 2)  # what is alive does not depend on how often
    monkeypatch.setattr(conjugate_gradient, "MAX_ITERATIONS", 2)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_imagenet_s_size_takes_less_than_60_gb_and_no_more_than_planned(
    name: str, weighted: bool, cuda: SimulatedCuda, thousandth: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if weighted and name == "block-diagonal":
        pytest.skip("samples that count differently have none")
    prefer(PRECONDITIONERS[name], monkeypatch)
    rows, dims, classes = IMAGENET
    features_ND, labels_N = mixture(rows, dims, classes)
    weight_N = np.linspace(0.5, 1.5, rows) if weighted else None
    planned = DeviceMemory.planned(
        (rows, dims), classes, loss="softmax", weighted=weighted, device=torch.device("cuda")
    )
    settings = FitSettings(num_classes=classes, path=RegularizationPath(l2=(1.0, 0.1, 0.01)), device="cuda", tol=1e-2)
    fit_path(features_ND, labels_N, settings, sample_weight_N=weight_N)
    needed = planned.needed_bytes
    if name == "block-diagonal":
        needed = planned.solving_bytes + BlockDiagonal.num_bytes(208, classes)
    assert cuda.peak_bytes < 60e9 / SCALE, cuda.peak_at
    assert 0.6 * needed < cuda.peak_bytes < needed, (needed, cuda.peak_bytes, cuda.peak_at)


@pytest.mark.parametrize(
    ("rows", "dims", "classes"),
    [
        (3000, 64, 4),
        pytest.param(3000, 64, 60, marks=pytest.mark.slow),
        (500, 200, 20),
        pytest.param(20000, 32, 10, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_no_fit_takes_more_than_was_planned(
    rows: int, dims: int, classes: int, loss: str, cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "STEP_LIMIT", 2)
    monkeypatch.setattr(conjugate_gradient, "MAX_ITERATIONS", 2)
    monkeypatch.setattr(support_vectors, "MAX_NUMBERS", 1 << 16)
    monkeypatch.setattr(device_memory, "MAX_NUMBERS", 1 << 16)
    features_ND, labels_N = mixture(rows, dims, classes)
    planned = DeviceMemory.planned((rows, dims), classes, loss=loss, weighted=False, device=torch.device("cuda"))
    settings = FitSettings(num_classes=classes, path=PATH, loss=loss, device="cuda", tol=1e-2)
    fit_path(features_ND, labels_N, settings)
    assert cuda.peak_bytes <= planned.needed_bytes, cuda.peak_at


def test_the_plan_knows_what_fits_an_80_gb_card(cuda: SimulatedCuda) -> None:
    shape, device = (1_281_167, 2048), torch.device("cuda")
    imagenet = DeviceMemory.planned(shape, 1000, loss="softmax", weighted=False, device=device)
    assert imagenet.fits
    assert imagenet.needed_bytes < 60e9
    assert imagenet.spare_bytes > BlockDiagonal.num_bytes(2080, 1000)
    many = DeviceMemory.planned(shape, 21_841, loss="softmax", weighted=False, device=device)
    assert not many.fits
    assert "76.0 GB can be used" in many.sentence()


# --- what does not fit ---


def test_what_does_not_fit_is_streamed_and_said_so_before(caplog: pytest.LogCaptureFixture) -> None:
    features_ND, labels_N = mixture(8000, 10)
    settings = FitSettings(num_classes=K, path=FEW, device="cuda")
    with simulated_cuda(total_bytes=2_000_000) as cuda:
        with pytest.raises(InputError, match=r"takes about .* GB of the GPU's memory at once"):
            fit_path(features_ND, labels_N, settings)
        assert cuda.launches.total() == 0  # it was planned, not tried
        streamed = torch_path(features_ND, labels_N, settings)
        assert cuda.peak_bytes < 2_000_000
        assert "features are streamed from the host's memory" in caplog.text
        alike = torch_path(features_ND, labels_N, settings, sample_weight_N=np.full(8000, 0.5))
    on_cpu = fit_path(features_ND, labels_N, replace(settings, device="cpu"))
    for one, other in zip(streamed, on_cpu, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=1e-5)
    halved = fit_path(features_ND, labels_N, replace(settings, device="cpu"), sample_weight_N=np.full(8000, 0.5))
    for one, other in zip(alike, halved, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("held", [True, False])
def test_streamed_features_are_read_once_or_from_pinned_memory(held: bool, cuda: SimulatedCuda) -> None:
    features_ND, labels_N = mixture(3000, 16)
    read = []

    def batches(count: int) -> Iterator[NDArray[np.float32]]:
        read.append(count)
        return RowSource.of(features_ND).batches(count)

    memory_bytes = 4 * features_ND.nbytes if held else int(1.5 * features_ND.nbytes)
    source = RowSource(num_rows=3000, feature_dim=16, batches=batches)
    settings = FitSettings(num_classes=K, path=RegularizationPath(l2=(1000.0,)), tol=1e-3, device="cuda")
    probes = fit_streamed(source, labels_N, settings, memory_bytes=memory_bytes)
    assert (len(read) == 1) == held
    agree_streamed = fit_path(features_ND, labels_N, replace(settings, device="cpu"))
    for one, other in zip(probes, agree_streamed, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=1e-5)
    if not held:
        assert cuda.to_device.within("streamed.py") > 10
        assert cuda.pageable.within("streamed.py") == 0, cuda.pageable.table()
