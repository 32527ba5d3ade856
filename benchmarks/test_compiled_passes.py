"""The benchmark of compiled passes runs, and each side does run its own passes."""

import compiled_passes
import probe_path
import pytest

from penultimate.engine.probe.kernels.amx_design import AmxDesign
from penultimate.engine.probe.kernels.kernels import library
from penultimate.engine.probe.objective.torch_design import TorchDesign
from penultimate.engine.probe.path import RegularizationPath

pytestmark = [
    pytest.mark.capability,
    pytest.mark.skipif(library() is None, reason="no bfloat16 matrix units here, or no compiled passes"),
]


def test_the_sides_differ_in_nothing_but_the_design() -> None:
    features_ND, labels_N = probe_path.synthetic(300, 40, 4)
    made = {}
    for side, context in compiled_passes.SIDES.items():
        with context():
            made[side] = compiled_passes.problem(features_ND, labels_N)
    assert isinstance(made["compiled"].design, AmxDesign)
    assert isinstance(made["torch"].design, TorchDesign)
    assert made["torch"].precision == "float32/bfloat16"


def test_every_pass_and_the_path_have_a_row() -> None:
    features_ND, labels_N = probe_path.synthetic(300, 40, 4)
    path = RegularizationPath.spaced(1e-2, 1e2, 5)
    rows = list(compiled_passes.lines(features_ND, labels_N, 4, path, rounds=1))
    assert len(rows) == 1 + 5 + 1
    assert rows[-1].startswith("| path of 5 strengths |")
