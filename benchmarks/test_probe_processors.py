"""The report of paths beside scikit-learn's has every contender and says on what they ran."""

import probe_processors
import pytest

from penultimate.engine.bench.probe import Shape, drawn_features
from penultimate.engine.bench.timing.turns import TurnOptions
from penultimate.engine.probe.path import RegularizationPath


@pytest.mark.slow
def test_every_contender_is_measured_and_its_libraries_named() -> None:
    with drawn_features(Shape.parse("400,10,4")) as features:
        path, turns = RegularizationPath.spaced(1e-1, 1e1, 3), TurnOptions(rounds=1)
        found = probe_processors.report(features, path, turns, memory_bytes=1 << 30)
        left_out = probe_processors.report(features, path, turns, memory_bytes=1)
    names = ["scikit-learn float64", "scikit-learn float32", probe_processors.CHOLESKY, *probe_processors.SIDES]
    assert [line.name for line in found.measurements] == [*names, *probe_processors.SIDES]
    assert found.findings[0].startswith("The BLAS of NumPy and SciPy")
    assert sum("3 of 3 certified" in sentence for sentence in found.findings) == 2
    assert len(left_out.measurements) == len(found.measurements) - 1
    assert "is left out: its Hessian of 44 parameters" in left_out.findings[-1]
