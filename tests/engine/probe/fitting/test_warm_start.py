"""Where a fit begins changes how long it takes and nothing else; what is a solution takes one gradient and no step."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from support.probe_cases import mixture, softmax_objective

from penultimate.engine.probe.fitting import fit
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.objective import rotated_features
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe

K = 4
PATH = RegularizationPath.parse("1e-3:1e4:15")
SETTINGS = FitSettings(num_classes=K, path=PATH)
FEATURES_ND, LABELS_N = mixture(600, 12, K, apart=0.7)
SHAPES = {"more samples than dimensions": (600, 12), "fewer": (40, 70), "float32": (3000, 400)}


@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared_hinge"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_solutions_are_certified_anew_without_a_step(loss: str, shape: tuple[int, int]) -> None:
    features_ND, labels_N = mixture(*shape, K, apart=0.7)
    settings = replace(SETTINGS, loss=loss, path=RegularizationPath.parse("1:1e4:9"))
    solved = fit_path(features_ND, labels_N, settings)
    again = fit_path(features_ND, labels_N, settings, start=solved)
    assert [probe.l2 for probe in again] == list(settings.path.l2)
    for one, other in zip(again, solved, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-6)
        assert one.report.gap <= settings.tol * one.report.objective
    assert sum(probe.report.steps == 0 for probe in again) >= 7  # of 9; float32 weights may miss a rule by rounding


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_nearly_solved_takes_its_step_without_finding_axes(loss: str, shape: tuple[int, int]) -> None:
    features_ND, labels_N = mixture(*shape, K, apart=0.7)
    settings = replace(SETTINGS, loss=loss, path=RegularizationPath(l2=(3e4, 1e4)))
    solved = fit_path(features_ND, labels_N, settings)
    found = fit_path(features_ND, labels_N, settings, start=nearly(solved, 7e-4 if shape[1] == 400 else 1.6e-3))
    assert 1 <= sum(probe.report.steps for probe in found) <= 2  # rounding may let one of float32 meet the rule
    assert found.basis is None
    agree(found, solved)


def test_where_many_are_nearly_solved_axes_are_found() -> None:
    settings = replace(SETTINGS, path=RegularizationPath.parse("1e3:1e5:30"))
    solved = fit_path(FEATURES_ND, LABELS_N, settings)
    found = fit_path(FEATURES_ND, LABELS_N, settings, start=nearly(solved, 1.6e-3))
    assert found.basis is not None
    agree(found, solved)


def nearly(solved: list[Probe], distance: float) -> list[Probe]:
    """Return weights at this distance, relative to their norm."""
    return [replace(probe, weight_KD=np.float32(1 + distance) * probe.weight_KD) for probe in solved]


@pytest.mark.parametrize("l2", [1e4, 10.0, 0.1])
def test_a_certificate_without_a_step_bounds_the_distance_to_the_optimum(l2: float) -> None:
    (solved,) = fit_path(FEATURES_ND, LABELS_N, replace(SETTINGS, path=RegularizationPath(l2=(l2,))))
    (again,) = fit_path(FEATURES_ND, LABELS_N, replace(SETTINGS, path=RegularizationPath(l2=(l2,))), start=[solved])
    theirs = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-11, max_iter=10_000)
    theirs.fit(FEATURES_ND.astype(np.float64), LABELS_N)
    optimum = softmax_objective(FEATURES_ND, LABELS_N, theirs.coef_, theirs.intercept_, l2)
    own = softmax_objective(FEATURES_ND, LABELS_N, again.weight_KD, again.bias_K, l2)
    assert again.report.steps == 0
    assert again.report.objective == pytest.approx(own, rel=1e-9)
    assert own - optimum <= again.report.gap + 1e-9 * optimum


@pytest.mark.parametrize("grid", ["1e-2:1e3:21", "3,30", "1e-5:1e6:12"])
@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_another_grid_ends_where_it_would_without(grid: str, loss: str) -> None:
    settings = replace(SETTINGS, loss=loss)
    solved = fit_path(FEATURES_ND, LABELS_N, settings)
    other = replace(settings, path=RegularizationPath.parse(grid))
    agree(fit_path(FEATURES_ND, LABELS_N, other, start=solved), fit_path(FEATURES_ND, LABELS_N, other))


def test_other_weights_and_other_rows_end_where_they_would_without() -> None:
    solved = fit_path(FEATURES_ND, LABELS_N, SETTINGS)
    weight_N = np.random.default_rng(0).uniform(0, 2, size=600)
    agree(
        fit_path(FEATURES_ND, LABELS_N, SETTINGS, sample_weight_N=weight_N, start=solved),
        fit_path(FEATURES_ND, LABELS_N, SETTINGS, sample_weight_N=weight_N),
    )
    some = slice(0, 400)
    agree(
        fit_path(FEATURES_ND[some], LABELS_N[some], SETTINGS, start=solved),
        fit_path(FEATURES_ND[some], LABELS_N[some], SETTINGS),
    )


@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared_hinge"])
@pytest.mark.parametrize(
    "shape", [(600, 12), pytest.param((4000, 400), marks=pytest.mark.slow)], ids=["float64", "float32"]
)
def test_a_refit_takes_the_axes_of_the_path_and_finds_its_own_solution(
    loss: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    features_ND, labels_N = mixture(*shape, K, apart=0.7)
    settings, one = replace(SETTINGS, loss=loss), replace(SETTINGS, loss=loss, path=RegularizationPath(l2=(0.1,)))
    train = slice(0, 5 * len(features_ND) // 6)
    solved = fit_path(features_ND[train], labels_N[train], settings)
    wanted = fit_path(features_ND, labels_N, one)

    def refuses(*given: object) -> None:
        raise AssertionError("the axes were computed anew")

    monkeypatch.setattr(rotated_features, "_eigenvectors", refuses)
    monkeypatch.setattr(fit, "certified", refuses)
    agree(fit_path(features_ND, labels_N, one, start=solved), wanted)


def test_axes_that_do_not_span_other_rows_are_not_taken() -> None:
    features_ND, labels_N = mixture(60, 40, K, apart=0.7)
    some = slice(0, 30)  # fewer than dimensions
    solved = fit_path(features_ND[some], labels_N[some], SETTINGS)
    agree(fit_path(features_ND, labels_N, SETTINGS, start=solved), fit_path(features_ND, labels_N, SETTINGS))


def test_a_class_that_the_solutions_had_no_samples_of_is_fitted() -> None:
    three = LABELS_N < 3
    solved = fit_path(FEATURES_ND[three], LABELS_N[three], SETTINGS)
    assert np.isneginf(solved[0].bias_K[3])
    agree(fit_path(FEATURES_ND, LABELS_N, SETTINGS, start=solved), fit_path(FEATURES_ND, LABELS_N, SETTINGS))


@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared_hinge"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e30])
def test_a_start_that_is_no_solution_of_anything_changes_no_result(loss: str, scale: float) -> None:
    settings = replace(SETTINGS, loss=loss, path=RegularizationPath.parse("0.1:1000:5"))
    wanted = fit_path(FEATURES_ND, LABELS_N, settings)
    rng = np.random.default_rng(0)
    noise = [
        replace(probe, weight_KD=(scale * rng.normal(size=probe.weight_KD.shape)).astype(np.float32))
        for probe in wanted
    ]
    agree(fit_path(FEATURES_ND, LABELS_N, settings, start=noise), wanted)


def test_weights_that_have_a_mean_over_classes_are_no_solution_of_softmax() -> None:
    """No probability sees the mean, and no gradient of the loss; the penalty does."""
    settings = replace(SETTINGS, path=RegularizationPath(l2=(10.0,)))
    solved = fit_path(FEATURES_ND, LABELS_N, settings)
    shifted = [replace(probe, weight_KD=probe.weight_KD + 3, bias_K=probe.bias_K - 1) for probe in solved]
    (again,) = fit_path(FEATURES_ND, LABELS_N, settings, start=shifted)
    np.testing.assert_allclose(again.weight_KD.mean(0), 0, atol=1e-6)
    agree([again], solved)


def agree(found: list[Probe], wanted: list[Probe]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.report.certified
        assert one.l2 == other.l2
        assert one.report.objective == pytest.approx(other.report.objective, rel=4e-6)  # the rule aims at 1e-6 of it
