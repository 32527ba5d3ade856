"""The benchmark of compiled passes runs, and each side does run its own passes."""

import compiled_passes
import pytest

from penultimate.engine.bench.features import overlapping_classes
from penultimate.engine.bench.probe import Shape, drawn_features
from penultimate.engine.bench.timing.turns import TurnOptions
from penultimate.engine.probe.kernels.amx_design import AmxDesign
from penultimate.engine.probe.kernels.float_design import FloatDesign
from penultimate.engine.probe.kernels.kernels import amx_kernels, float_kernels
from penultimate.engine.probe.objective.torch_design import TorchDesign
from penultimate.engine.probe.path import RegularizationPath

pytestmark = [
    pytest.mark.capability,
    pytest.mark.skipif(amx_kernels() is None and float_kernels() is None, reason="no compiled passes here"),
]


def test_the_sides_differ_in_nothing_but_the_design() -> None:
    features_ND, labels_N = overlapping_classes(300, 40, 4)
    made = {}
    for side, context in compiled_passes.SIDES.items():
        with context():
            made[side] = compiled_passes.problem(features_ND, labels_N)
    assert isinstance(made["compiled"].design, FloatDesign if amx_kernels() is None else AmxDesign)
    assert isinstance(made["torch"].design, TorchDesign)
    assert made["torch"].precision == f"float32/{'float32' if amx_kernels() is None else 'bfloat16'}"


def test_every_pass_and_the_path_have_both_sides() -> None:
    with drawn_features(Shape.parse("400,40,4")) as features:
        path = RegularizationPath.spaced(1e-2, 1e2, 5)
        found = compiled_passes.report(features, path, TurnOptions(rounds=1))
    assert [line.name for line in found.measurements] == ["torch", "compiled"] * (6 if amx_kernels() else 7)
    assert found.measurements[-1].group == "path of 5 strengths"
    assert all(line.ratio_to == "torch" for line in found.measurements[1::2])
