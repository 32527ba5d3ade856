"""The probe benchmark runs on small sizes, and its comparison is fair."""

from pathlib import Path

import numpy as np
import probe_path
import pytest

from penultimate.engine.probe.path import RegularizationPath

PATH = RegularizationPath.spaced(1e-2, 1e2, 5)


def test_the_objective_it_compares_is_the_one_the_probe_reports() -> None:
    features_ND, labels_N = probe_path.synthetic(200, 20, 4)
    _, probes = probe_path.ours(features_ND, labels_N, 4, PATH)
    for probe in probes:
        found = probe_path.objective(features_ND, labels_N, probe.weight_KD, probe.bias_K, probe.l2)
        assert found == pytest.approx(probe.report.objective, rel=1e-6)  # weights are float32


def test_tightened_scikit_learn_comes_within_the_match_and_never_below_our_bound() -> None:
    features_ND, labels_N = probe_path.synthetic(200, 20, 4)
    _, probes = probe_path.ours(features_ND, labels_N, 4, PATH)
    wanted = [probe.report.objective for probe in probes]
    rows = list(probe_path.sklearn_tight(features_ND.astype(np.float64), labels_N, PATH, wanted, limit_seconds=60))
    assert [row["matched"] for row in rows] == [True] * 5
    for row, probe in zip(rows, probes, strict=True):
        assert row["objective"] >= probe.report.objective - probe.report.gap


def test_the_objective_of_linear_svc_is_counted_as_ours_is() -> None:
    """LinearSVC regularises its bias and so misses our optimum; where the bias is near zero it comes close."""
    features_ND, labels_N = probe_path.synthetic(400, 20, 4)
    _, probes = probe_path.ours(features_ND, labels_N, 4, PATH, loss="squared_hinge")
    rows = list(probe_path.linear_svc(features_ND.astype(np.float64), labels_N, PATH, limit_seconds=60))
    for row, probe in zip(rows, probes, strict=True):
        assert row["objective"] >= probe.report.objective - probe.report.gap
    assert rows[-1]["objective"] == pytest.approx(probes[-1].report.objective, rel=1e-2)


def test_records_make_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    features_ND, labels_N = probe_path.synthetic(120, 10, 3)
    monkeypatch.setattr(probe_path, "train_features", lambda store, dataset: (features_ND, labels_N, 3))
    for what in ("ours", "default", "default32", "tight"):
        probe_path.main([what, "--store", "s", "--dataset", "d", "--out", f"{tmp_path}/r.jsonl", "--strengths", "4"])
    probe_path.main(["table", "--out", f"{tmp_path}/r.jsonl"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("d: ours")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["default", "default32", "tight"]


def test_scaling_reports_a_row_a_size() -> None:
    (row,) = probe_path.scaling([(100, 8, 3, 4)])
    assert row["certified"] == 4
