"""A reader scores on the device, and streams what does not fit there, which the trial says."""

import numpy as np
import pytest
import torch
from support.probe_cases import mixture
from support.simulated_cuda import simulated_cuda

from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.settings import ProbeResources, ProbeSettings
from penultimate.store.feature_set import FeatureSet

GPU = ProbeResources(device="cuda")
SETTINGS = ProbeSettings(path=RegularizationPath(l2=(1000.0,)), tol=1e-2)


def stored(rows: int) -> FeatureSet:
    features_ND, labels_N = mixture(rows, 10)
    return FeatureSet.of(features_ND, labels_N, (["train", "train", "val", "test"] * rows)[:rows])


def test_scores_are_multiplied_on_the_device() -> None:
    features = stored(400)
    rows = features.rows("test")
    reader = FeatureReader(features, SETTINGS, loss="softmax", resources=ProbeResources())
    probes = reader.fit(features.rows("train"), RegularizationPath(l2=(10.0, 1.0)))
    wanted = reader.scores(rows, probes)
    with simulated_cuda() as cuda:
        found = FeatureReader(features, SETTINGS, loss="softmax", resources=GPU).scores(rows, probes)
        assert cuda.launches.of("addmm") == 1  # a batch for both probes
        assert cuda.to_host.total() == 1
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == (len(rows), 4)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_trial_says_that_its_features_did_not_fit_and_were_streamed() -> None:
    features, lines = stored(9_000), list[str]()
    setting = torch.backends.cuda.matmul.fp32_precision
    with simulated_cuda(total_bytes=1_200_000) as cuda:
        streamed = run_probe(features, SETTINGS, resources=GPU, log=lines.append).trial
        assert cuda.peak_bytes < 1_200_000
    (note,) = [note for note in streamed.notes if note.endswith("features are streamed")]
    assert "of the GPU's memory" in note
    assert lines
    assert all("features are streamed" in line for line in lines)
    in_memory = run_probe(features, SETTINGS).trial
    assert streamed.value == pytest.approx(in_memory.value, abs=5 / 2250)
    assert torch.backends.cuda.matmul.fp32_precision == setting  # the process's own again
