"""The comparison with the optimum runs on a small size, and is fair."""

from pathlib import Path

import numpy as np
import pytest
from probe_optimum import main, tightened

from penultimate.engine.bench.features import overlapping_classes
from penultimate.engine.bench.timing.report import read_report
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.path import RegularizationPath


def test_tightened_scikit_learn_comes_within_the_match_and_never_below_our_bound() -> None:
    features_ND, labels_N = overlapping_classes(200, 20, 4)
    path = RegularizationPath.spaced(1e-2, 1e2, 5)
    probes = fit_path(features_ND, labels_N, FitSettings(num_classes=4, path=path))
    wanted = {probe.l2: probe.report.objective for probe in probes}
    found = list(tightened(features_ND.astype(np.float64), labels_N, wanted))
    assert [matched for _, matched in found] == [True] * 5
    for (objective, _), probe in zip(found, probes, strict=True):
        assert objective >= probe.report.objective - probe.report.gap


@pytest.mark.slow
def test_the_report_has_both_comparisons(probe_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    main([str(probe_store), str(out), "--strengths", "3", "--seconds", "60"])
    found = read_report(out)
    assert [line["name"] for line in found["measurements"]] == ["scikit-learn float64, tightened", "penultimate"]
    assert len(found["tables"]["Beside the exact optimum"]) == 3
    assert any("Chosen l2" in sentence for sentence in found["findings"])
