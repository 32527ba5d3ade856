"""fit_path agrees with scikit-learn and with known optima, and has the expected invariances."""

from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, LinearSVC
from support.probe_cases import Floats, mixture, softmax_objective
from support.processors import pretend

from penultimate.engine.probe.fitting import fit
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.kernels.kernels import amx_kernels
from penultimate.engine.probe.objective import rotated_features
from penultimate.engine.probe.objective.make_design import make_design
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe
from penultimate.engine.runtime import threads
from penultimate.engine.runtime.capabilities import has_bfloat16_matrix_units
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError

# Shapes: N samples, D feature dimensions, K classes.

K = 4


def alone(features_ND: Floats, labels: NDArray[Any], l2: float = 1.0, **options: Any) -> Probe:
    defaults: dict[str, Any] = {"num_classes": K, "path": RegularizationPath(l2=(l2,))}
    weight_N = options.pop("sample_weight_N", None)
    (probe,) = fit_path(features_ND, labels, FitSettings(**(defaults | options)), sample_weight_N=weight_N)
    return probe


def exact(features_ND: Floats, labels_N: NDArray[Any], l2: float) -> LogisticRegression:
    """Fit by scikit-learn's Newton solver, which reaches rounding on small problems where its L-BFGS gives up."""
    model = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-11, max_iter=10_000)
    return model.fit(features_ND.astype(np.float64), labels_N)


def same_scores(features_ND: Floats, one: Probe, other: Probe, tolerance: float) -> None:
    """Compare scores up to one constant per sample, to which softmax is invariant."""
    centred = [s - s.mean(1, keepdims=True) for s in (one.scores(features_ND), other.scores(features_ND))]
    np.testing.assert_allclose(centred[0], centred[1], atol=tolerance)


@pytest.mark.parametrize("l2", [1e5, 1e3, 1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("shape", [(240, 12), (30, 60)], ids=["more samples than dimensions", "fewer"])
def test_agrees_with_scikit_learn_at_C_equal_one_over_l2(l2: float, shape: tuple[int, int]) -> None:
    features_ND, labels_N = mixture(*shape)
    probe = alone(features_ND, labels_N, l2)
    theirs = exact(features_ND, labels_N, l2)
    optimum = softmax_objective(features_ND, labels_N, theirs.coef_, theirs.intercept_, l2)
    assert probe.report.certified
    assert probe.report.objective <= optimum * (1 + 1e-6)  # the default tolerance aims at 1e-6 of the objective
    assert probe.report.objective - optimum <= probe.report.gap + 1e-9 * optimum
    ours = softmax_objective(features_ND, labels_N, probe.weight_KD, probe.bias_K, l2)
    assert ours == pytest.approx(probe.report.objective, rel=2e-6)  # weights are returned in float32


def test_agrees_with_scikit_learn_down_a_whole_path() -> None:
    features_ND, labels_N = mixture()
    path = RegularizationPath.parse("1e-5:1e5:21")
    for probe in fit_path(features_ND, labels_N, FitSettings(num_classes=K, path=path)):
        theirs = exact(features_ND, labels_N, probe.l2)
        optimum = softmax_objective(features_ND, labels_N, theirs.coef_, theirs.intercept_, probe.l2)
        assert probe.report.certified
        assert probe.report.objective <= optimum * (1 + 1e-6)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared_hinge"])
def test_the_gap_bounds_the_distance_to_the_optimum_and_meets_the_tolerance(loss: str, tol: float) -> None:
    features_ND, labels_N = mixture()
    best = alone(features_ND, labels_N, 0.1, loss=loss, tol=1e-10).report
    report = alone(features_ND, labels_N, 0.1, loss=loss, tol=tol).report
    rounding = 1e-12  # objectives are float64 sums here
    assert report.objective - best.objective <= report.gap + rounding
    assert best.gap <= 1e-10 * best.objective
    assert report.gap <= tol * report.objective


def test_the_squared_hinge_agrees_with_linear_svc() -> None:
    features_ND, labels_N = mixture()
    probe = alone(features_ND, labels_N, 2.0, loss="squared_hinge", tol=1e-8)
    # liblinear regularises its bias; a bias feature of 1e3 makes that penalty a millionth.
    theirs = LinearSVC(C=1 / 2.0, dual=False, tol=1e-10, max_iter=100_000, intercept_scaling=1e3).fit(
        features_ND, labels_N
    )
    np.testing.assert_allclose(probe.weight_KD, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(probe.bias_K, theirs.intercept_, atol=1e-3)


def test_one_vs_rest_agrees_with_a_binary_problem_a_class() -> None:
    features_ND, labels_N = mixture()
    probe = alone(features_ND, labels_N, 0.5, loss="logistic", tol=1e-8)
    for k in range(K):
        theirs = exact(features_ND, labels_N == k, 0.5)
        np.testing.assert_allclose(probe.weight_KD[k], theirs.coef_[0], atol=1e-4)


def test_several_labels_a_sample_equal_their_classes_one_by_one() -> None:
    features_ND, labels_N = mixture()
    matrix_NK = (labels_N[:, None] == np.arange(K)).astype(np.uint8)
    one, other = (alone(features_ND, labels, loss="logistic", tol=1e-9) for labels in (labels_N, matrix_NK))
    np.testing.assert_allclose(one.weight_KD, other.weight_KD, atol=1e-6)


def test_without_features_the_optimum_is_the_log_frequency_of_the_classes() -> None:
    """With constant features W = 0, and the softmax of the bias is the class frequencies."""
    labels_N = np.repeat([0, 1, 2], [50, 30, 20])
    probe = alone(np.full((100, 5), 7.0, np.float32), labels_N, num_classes=3, tol=1e-10)
    raised_K = np.exp(probe.bias_K - probe.bias_K.max())
    np.testing.assert_allclose(probe.weight_KD, 0, atol=1e-7)
    np.testing.assert_allclose(raised_K / raised_K.sum(), [0.5, 0.3, 0.2], rtol=1e-5)
    separate = alone(np.full((100, 5), 7.0, np.float32), labels_N, num_classes=3, loss="logistic", tol=1e-10)
    np.testing.assert_allclose(separate.bias_K, logit([0.5, 0.3, 0.2]), atol=1e-5)


def test_two_points_have_the_optimum_of_one_equation() -> None:
    """x = +-1 with labels 0, 1: by symmetry W = (w, -w), b = 0, and d/dw = 0 reads l2 w = 2 / (1 + exp(2 w)) / ... ."""
    features_ND, labels_N = np.array([[1.0], [-1.0]], np.float32), np.array([0, 1])
    probe = alone(features_ND, labels_N, 0.3, num_classes=2, tol=1e-12)
    w = float(probe.weight_KD[0, 0])
    assert probe.weight_KD[1, 0] == pytest.approx(-w, rel=1e-6)
    # 2 log(1 + exp(-2 w)) + 0.3 w^2: derivative -4 / (1 + exp(2 w)) + 0.6 w
    assert 4 / (1 + np.exp(2 * w)) == pytest.approx(0.6 * w, rel=1e-5)


TIGHT = 1e-9  # tolerance of the fits below; weights are float32, hence comparisons at 1e-3 of scores of about 5


def test_permuting_the_samples_changes_nothing() -> None:
    features_ND, labels_N = mixture()
    order = np.random.default_rng(1).permutation(len(labels_N))
    one = alone(features_ND, labels_N, tol=TIGHT)
    same_scores(features_ND, one, alone(features_ND[order], labels_N[order], tol=TIGHT), 1e-3)


def test_rotating_the_features_rotates_the_weights() -> None:
    features_ND, labels_N = mixture()
    rotation_DD = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0].astype(np.float32)
    one = alone(features_ND, labels_N, tol=TIGHT)
    other = alone(features_ND @ rotation_DD, labels_N, tol=TIGHT)
    np.testing.assert_allclose(other.weight_KD @ rotation_DD.T, one.weight_KD, atol=1e-4)


def test_scaling_the_features_and_l2_by_the_square_changes_no_score() -> None:
    features_ND, labels_N = mixture()
    one = alone(features_ND, labels_N, 0.5, tol=TIGHT)
    other = alone(8 * features_ND, labels_N, 32.0, tol=TIGHT)
    assert other.report.objective == pytest.approx(one.report.objective, rel=1e-7)
    np.testing.assert_allclose(8 * other.weight_KD, one.weight_KD, atol=1e-4)


def test_certificates_of_tiny_features_do_not_underflow() -> None:
    """The path is solved in mixed precision where squares of the gradients underflow float32."""
    features_ND, labels_N = mixture(9000, 120, K)
    path = RegularizationPath.parse("1e-32:1e-27:6")
    for probe in fit_path(1e-15 * features_ND, labels_N, FitSettings(num_classes=K, path=path)):
        assert probe.report.certified
        assert probe.report.gradient_norm > 0
        # The bound is that and what the bias adds (duality_gap.py); 1e-6 for sums of float32.
        assert probe.report.gap >= (1 - 1e-6) * probe.report.gradient_norm**2 / (2 * probe.l2 / len(labels_N))


def test_duplicating_every_sample_and_doubling_l2_changes_nothing() -> None:
    features_ND, labels_N = mixture()
    one = alone(features_ND, labels_N, 0.5, tol=TIGHT)
    other = alone(np.tile(features_ND, (2, 1)), np.tile(labels_N, 2), 1.0, tol=TIGHT)
    np.testing.assert_allclose(other.weight_KD, one.weight_KD, atol=1e-4)


@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared_hinge"])
def test_integer_sample_weights_are_repetitions_and_zero_leaves_out(loss: str) -> None:
    features_ND, labels_N = mixture()
    weight_N = np.random.default_rng(1).integers(0, 4, len(labels_N))
    one = alone(features_ND, labels_N, sample_weight_N=weight_N.astype(np.float64), loss=loss, tol=TIGHT)
    other = alone(np.repeat(features_ND, weight_N, 0), np.repeat(labels_N, weight_N), loss=loss, tol=TIGHT)
    np.testing.assert_allclose(one.weight_KD, other.weight_KD, atol=1e-4)
    assert one.report.objective == pytest.approx(other.report.objective, rel=1e-8)


def test_adding_a_constant_to_a_feature_changes_only_the_bias() -> None:
    features_ND, labels_N = mixture()
    moved_ND = features_ND + np.float32(16) * (np.arange(12) == 3).astype(np.float32)
    one, other = alone(features_ND, labels_N, tol=TIGHT), alone(moved_ND, labels_N, tol=TIGHT)
    np.testing.assert_allclose(other.weight_KD, one.weight_KD, atol=1e-4)
    change_K = other.bias_K - one.bias_K + 16 * one.weight_KD[:, 3]
    np.testing.assert_allclose(change_K - change_K.mean(), 0, atol=2e-3)


def test_a_duplicated_feature_shares_the_weight_and_a_constant_one_gets_none() -> None:
    features_ND, labels_N = mixture()
    wide_ND = np.concatenate([features_ND, features_ND[:, :1], np.full((len(labels_N), 1), 5, np.float32)], 1)
    probe = alone(wide_ND, labels_N, tol=TIGHT)
    np.testing.assert_allclose(probe.weight_KD[:, 0], probe.weight_KD[:, 12], atol=1e-5)
    np.testing.assert_allclose(probe.weight_KD[:, 13], 0, atol=1e-6)


@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared_hinge"])
def test_separable_data_are_certified_down_to_weak_strengths(loss: str) -> None:
    """The path is solved down to objectives of 1e-8."""
    features_ND, labels_N = mixture(apart=6.0)
    probes = fit_path(
        features_ND, labels_N, FitSettings(num_classes=K, path=RegularizationPath.spaced(1e-6, 1e5, 21), loss=loss)
    )
    assert {probe.report.status for probe in probes} == {"certified"}
    assert (probes[-1].scores(features_ND).argmax(1) == labels_N).all()


@pytest.mark.slow
def test_a_separable_svm_is_that_of_the_largest_margin_as_l2_vanishes() -> None:
    """Few of many rows are support vectors; alone and at the end of a path, above the size that is float64 anyway."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(20, size=3000)
    features_ND = (rng.normal(size=(20, 400))[labels_N] + rng.normal(size=(3000, 400))).astype(np.float32)
    settings = FitSettings(num_classes=20, loss="squared_hinge", path=RegularizationPath.spaced(1e-6, 1e4, 11))
    path = fit_path(features_ND, labels_N, settings)
    (one,) = fit_path(features_ND, labels_N, replace(settings, path=RegularizationPath(l2=(1e-6,))))
    assert {probe.report.status for probe in (*path, one)} == {"certified"}
    sign_NK = np.where(labels_N[:, None] == np.arange(20), 1, -1)
    margin_NK = sign_NK * one.scores(features_ND)
    np.testing.assert_allclose(margin_NK.min(0), 1, atol=1e-4)
    support_K = (margin_NK < 1 + 1e-4).sum(0)
    assert support_K.max() < 600
    hard = SVC(kernel="linear", C=1e9, tol=1e-6).fit(features_ND, labels_N == 0)
    np.testing.assert_allclose(one.weight_KD[0], hard.coef_[0], atol=1e-3 * np.abs(hard.coef_).max())
    np.testing.assert_allclose(path[-1].weight_KD, one.weight_KD, atol=1e-3 * np.abs(one.weight_KD).max())


def test_one_sample_a_class_is_enough() -> None:
    features_ND, _ = mixture(rows=K)
    probe = alone(features_ND, np.arange(K))
    assert probe.report.certified
    assert (probe.scores(features_ND).argmax(1) == np.arange(K)).all()


@pytest.mark.parametrize(("loss", "bias"), [("softmax", -np.inf), ("logistic", -np.inf), ("squared_hinge", -1)])
def test_a_class_absent_from_train_gets_the_bias_that_is_its_optimum(loss: str, bias: float) -> None:
    features_ND, labels_N = mixture(classes=3)
    shifted_N = np.array([0, 2, 3])[labels_N]
    probe = alone(features_ND, shifted_N, loss=loss, tol=TIGHT)
    without = alone(features_ND, labels_N, num_classes=3, loss=loss, tol=TIGHT)
    assert probe.bias_K[1] == bias
    assert not probe.weight_KD[1].any()
    np.testing.assert_allclose(probe.weight_KD[[0, 2, 3]], without.weight_KD, atol=1e-6)


@pytest.mark.capability
@pytest.mark.parametrize("lowered", [False, True], ids=["", "lowered"])
def test_large_data_in_mixed_precision_agree_with_float64(lowered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 2^20 features the products are float32, or bfloat16 where the machine has it."""
    if lowered:
        pretend(monkeypatch, "avx2")
    low = "bfloat16" if has_bfloat16_matrix_units(torch.device("cpu")) and not lowered else "float32"
    expected = f"{'float32' if amx_kernels() is None else '2xbfloat16'}/{low}"
    features_ND, labels_N = mixture(9000, 120, K)
    path = RegularizationPath.parse("1e-4:1e4:9")
    for probe in fit_path(features_ND, labels_N, FitSettings(num_classes=K, path=path)):
        assert probe.report.precision == expected
        assert probe.report.certified
        found = softmax_objective(features_ND, labels_N, probe.weight_KD, probe.bias_K, probe.l2)
        assert found == pytest.approx(probe.report.objective, rel=1e-6)  # float32 scores, averaged over 9,000 samples


def test_one_class_only_is_refused() -> None:
    features_ND, labels_N = mixture()
    with pytest.raises(InputError, match="at least 2 classes"):
        alone(features_ND, np.zeros_like(labels_N))
    with pytest.raises(InputError, match="nothing to fit"):
        alone(features_ND, np.zeros_like(labels_N), num_classes=1, loss="logistic")


def test_rows_that_are_not_finite_are_named() -> None:
    features_ND, labels_N = mixture()
    features_ND[[3, 17], 2] = np.nan, np.inf
    with pytest.raises(InputError, match="rows 3, 17"):
        alone(features_ND, labels_N)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "softmx"}, "did you mean softmax"),
        ({"tol": 0.0}, "tol must be > 0"),
        ({"num_classes": 3}, r"integers in \[0, 3\)"),
        ({"sample_weight_N": np.full(240, -1.0)}, "finite numbers >= 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict[str, Any], message: str) -> None:
    features_ND, labels_N = mixture()
    with pytest.raises((InputError, UnknownNameError), match=message):
        alone(features_ND, labels_N, **change)


def test_a_missing_cuda_device_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    features_ND, labels_N = mixture()
    with pytest.raises(UnavailableError, match="no CUDA device"):
        alone(features_ND, labels_N, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; the CPU twin is the test above")
def test_cuda_agrees_with_the_cpu() -> None:
    features_ND, labels_N = mixture(9000, 120, K)
    path = RegularizationPath.parse("1e-4:1e4:9")
    on_gpu, on_cpu = (
        fit_path(features_ND, labels_N, FitSettings(num_classes=K, path=path, device=device))
        for device in ("cuda", "cpu")
    )
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-6)  # each within 1e-6


def test_a_small_problem_is_fitted_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def seeing(*values: Any, **options: Any) -> Any:
        seen.append(torch.get_num_threads())
        return make_design(*values, **options)

    monkeypatch.setattr(fit, "make_design", seeing)
    monkeypatch.setattr(threads, "_others_ready", lambda: 0)
    features_ND, labels_N = mixture(60, 8, K)
    settings = FitSettings(num_classes=K, path=RegularizationPath(l2=(1.0,)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        fit_path(features_ND, labels_N, settings)
        monkeypatch.setattr(fit, "SERIAL", 0)
        fit_path(features_ND, labels_N, settings)
        assert seen == [1, 3]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_threads_that_come_and_go_between_passes_change_rounding_alone(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features_ND, labels_N = mixture(2000, 30, K)
    settings = FitSettings(num_classes=K, path=RegularizationPath.parse("1e-2:1e2:5"), loss=loss)
    monkeypatch.setattr(fit, "SERIAL", 0)
    steady = fit_path(features_ND, labels_N, settings)
    before, numbers, seen = torch.get_num_threads(), cycle((1, 3, 2)), set[int]()

    def look(_: object) -> None:
        torch.set_num_threads(next(numbers))
        seen.add(torch.get_num_threads())

    monkeypatch.setattr(threads._FreeCores, "look", look)
    restless = fit_path(features_ND, labels_N, settings)
    assert seen == {1, 2, 3}
    assert torch.get_num_threads() == before
    for one, other in zip(restless, steady, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=1e-6)


@pytest.mark.capability
@pytest.mark.parametrize("weighted", [False, True])
def test_a_basis_of_some_of_the_rows_leads_to_the_same_optimum(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx2")
    features_ND, labels_N = mixture(3000, 360, K)
    weight_N = np.random.default_rng(0).uniform(0.5, 2, 3000) if weighted else None
    settings = FitSettings(num_classes=K, path=RegularizationPath.parse("1e-2:1e3:5"))
    of_all = fit_path(features_ND, labels_N, settings, sample_weight_N=weight_N)
    monkeypatch.setattr(rotated_features, "LOW_ROWS", 700)
    for probe, other in zip(fit_path(features_ND, labels_N, settings, sample_weight_N=weight_N), of_all, strict=True):
        assert probe.report.certified
        assert probe.report.objective == pytest.approx(other.report.objective, rel=2e-6)  # each within 1e-6
