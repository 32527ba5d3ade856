"""The probe is measured by the calls of ``probe``, and others by an objective that is the same."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from penultimate.engine.bench.features import overlapping_classes
from penultimate.engine.bench.probe import ProbeBench, Shape, bench_probe, drawn_features
from penultimate.engine.bench.probe_peers import blas_in_use, objective, peers_of
from penultimate.engine.probe.api import matching_key, probe
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.reader import FeatureReader
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore

L2 = "1e-2:1e2:5"
TINY = ProbeBench(l2=L2, rounds=2)


@pytest.fixture(scope="module")
def features() -> Iterator[FeatureSet]:
    with drawn_features(Shape.parse("200,12,4")) as drawn:
        yield drawn


def test_every_contender_fits_every_strength_and_the_probe_is_certified(features: FeatureSet) -> None:
    report = bench_probe(features, TINY, command=["penultimate"])
    assert [(line.group, line.name, line.items, line.complete) for line in report.measurements] == [
        (group, name, count, True)
        for group, count in (("Path of 5 strengths", 5), ("One strength, l2 = 1", 1))
        for name in ("scikit-learn float64", "scikit-learn float32", "penultimate")
    ] + [("The probe again: read, fit, choose, refit and score", "penultimate", 6, True)]
    assert any("5 of 5 certified" in sentence for sentence in report.findings)
    assert sum("did 5 of 5; its objective is up to" in sentence for sentence in report.findings) == 2
    assert report.measurements[2].ratio_to == "scikit-learn float64"


def test_the_rows_and_strengths_are_those_of_the_probe(features: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[tuple[int, int]] = []
    fit = FeatureReader.fit

    def noted(reader: FeatureReader, rows: np.ndarray, path: RegularizationPath, **options: object) -> object:
        fitted.append((len(rows), len(path)))
        return fit(reader, rows, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FeatureReader, "fit", noted)
    (trial,) = probe(features, l2=L2)
    by_probe = list(fitted)
    fitted.clear()
    bench_probe(features, ProbeBench(l2=L2, rounds=1), command=["penultimate"])
    path, one, *again = fitted[:4]  # of the warm-up
    assert again == by_probe
    assert (path, one) == (by_probe[0], (by_probe[0][0], 1))
    assert len(trial.history) == sum(count for _, count in by_probe)


def test_the_objective_of_others_is_the_one_that_the_probe_reports() -> None:
    features_ND, labels_N = overlapping_classes(200, 20, 4)
    probes = fit_path(features_ND, labels_N, FitSettings(num_classes=4, path=RegularizationPath.parse(L2)))
    for each in probes:
        found = objective(features_ND, labels_N, each.weight_KD, each.bias_K, each.l2)
        assert found == pytest.approx(each.report.objective, rel=1e-6)  # weights are float32


@pytest.mark.parametrize("num_classes", [2, 4])
def test_no_peer_ends_below_our_bound_and_all_come_near(num_classes: int) -> None:
    features_ND, labels_N = overlapping_classes(200, 20, num_classes)
    path = RegularizationPath.parse(L2)
    probes = fit_path(features_ND, labels_N, FitSettings(num_classes=num_classes, path=path))
    for peer in peers_of("softmax", features_ND, labels_N, device="cpu"):
        assert list(peer.fit(path.l2)) == [1] * 5
        for each in probes:
            found = peer.objectives[each.l2]()
            assert (
                found >= each.report.objective - each.report.gap - 1e-7
            )  # the objective of float32 weights is rounded
            assert found == pytest.approx(each.report.objective, rel=2e-2)  # at its default tolerance


def test_the_hinge_has_a_peer_of_its_own_and_logistic_regression_none(features: FeatureSet) -> None:
    hinge = bench_probe(features, ProbeBench(l2=L2, rounds=1, losses=("squared_hinge",)), command=["penultimate"])
    assert [line.name for line in hinge.measurements[:2]] == ["LinearSVC", "penultimate"]
    logistic = bench_probe(features, ProbeBench(l2=L2, rounds=1, losses=("logistic",)), command=["penultimate"])
    assert {line.name for line in logistic.measurements} == {"penultimate"}
    alone = bench_probe(features, ProbeBench(l2=L2, rounds=1), command=["penultimate"], on_cpu=False)
    assert {line.name for line in alone.measurements} == {"penultimate"}
    assert "scikit-learn, which computes on the CPU, is left out." in alone.not_measured
    assert "No other library here fits the loss logistic of these labels down a path." in logistic.not_measured


def test_a_peer_that_takes_too_long_is_stopped_and_its_duration_is_a_bound() -> None:
    with drawn_features(Shape.parse("400,40,20")) as features:
        report = bench_probe(features, ProbeBench(rounds=1, seconds=1e-3), command=["penultimate"])
    peer, ours = report.measurements[0], report.measurements[2]
    assert (peer.items, peer.complete, ours.complete, ours.ratio_bound) == (1, False, True, ">")
    assert any("scikit-learn float64 did 1 of 45" in sentence for sentence in report.findings)


@pytest.mark.parametrize("text", ["", "100", "100,10", "100,10,4,2", "0,10,4", "a,b,c", "100,10,1", "20,10,4"])
def test_a_wrong_shape_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected"):
        Shape.parse(text)


def test_several_probes_and_several_sets_are_refused(features: FeatureSet, probe_store: Path) -> None:
    with pytest.raises(InputError, match="2 probes"):
        bench_probe(features, ProbeBench(losses=("softmax", "logistic")), command=["penultimate"])
    with pytest.raises(InputError, match=r"expected the linear probe of one readout .* got the method knn"):
        bench_probe(features, ProbeBench(method="knn"), command=["penultimate"])
    with pytest.raises(InputError, match="got a choice of readouts"):
        bench_probe(features, ProbeBench(choose_readout=True), command=["penultimate"])
    from penultimate import extract

    photos = probe_store.parent / "photos"
    store = FeatureStore(probe_store)
    assert matching_key(store, "*", "*", "*").dataset == "photos"
    extract(photos, store=probe_store, model="test_resnet", weights="random", parity=False)
    with pytest.raises(InputError, match=r"one set of features, and 2 match .*--backbone"):
        matching_key(store, "*", "*", "*")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, None),
        ({"OPENBLAS_CORETYPE": "Haswell"}, "; OPENBLAS_CORETYPE=Haswell was set before"),
        (
            {"OPENBLAS_CORETYPE": "Haswell", "PENULTIMATE_CPU": "avx2"},
            ", as PENULTIMATE_CPU sets OPENBLAS_CORETYPE=Haswell.",
        ),
    ],
)
def test_a_blas_that_the_environment_chose_is_said_to_be(
    environment: dict[str, str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENBLAS_CORETYPE", "PENULTIMATE_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = blas_in_use()
    assert found.startswith("The BLAS of NumPy and SciPy")
    if said is None:
        assert "OPENBLAS_CORETYPE" not in found
    else:
        assert said in found
