"""A reader scores on the device, and streams what does not fit there, which the trial says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.probe_cases import mixture
from support.simulated_cuda import simulated_cuda

from penultimate.engine.probe.fitting.device_memory import DeviceMemory
from penultimate.engine.probe.get_or_fit import get_or_fit
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.settings import ProbeResources, ProbeSettings
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.trials.trial_log import TrialLog

RESOURCES = "penultimate.engine.probe.reader.safe_memory_bytes"

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


def test_a_note_that_was_said_at_once_is_not_said_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list[str]()
    monkeypatch.setattr(RESOURCES, lambda: 600_000)
    trial = get_or_fit(stored(9_000), SETTINGS, TrialLog.create(tmp_path / "trials"), log=lines.append)
    assert any(note.endswith("features are streamed") for note in trial.notes)
    for note in trial.notes:
        assert sum(line.endswith(note) for line in lines) == 1


def test_features_larger_than_half_of_what_is_free_are_streamed_unasked_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, lines = stored(9_000), list[str]()
    held = run_probe(features, SETTINGS, log=lines.append).trial
    assert not lines
    monkeypatch.setattr(RESOURCES, lambda: 600_000)
    streamed = run_probe(features, SETTINGS, log=lines.append).trial
    of_train, of_both = [note for note in streamed.notes if note.endswith("features are streamed")]
    assert "and 1 MiB is half of what is free" in of_train
    assert "and 1 MiB is half of what is free" in of_both
    assert of_train in lines[0]
    assert of_both in lines[1]
    assert not any("features are streamed" in note for note in held.notes)
    assert streamed.id == held.id
    assert streamed.value == pytest.approx(held.value, abs=5 / 2250)
    monkeypatch.setattr(RESOURCES, lambda: 10)  # less than streaming needs: it takes the least that it can do with
    assert run_probe(features, SETTINGS).trial.converged


def test_a_limit_that_was_given_counts_instead_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RESOURCES, lambda: 10)
    whole = run_probe(stored(400), SETTINGS, resources=ProbeResources(memory_bytes=1 << 30)).trial
    assert not any("streamed" in note for note in whole.notes)


def test_a_solver_that_cannot_stream_is_refused_only_where_a_limit_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RESOURCES, lambda: 10)
    sklearn = SETTINGS.replace(solver="sklearn")
    assert run_probe(stored(400), sklearn).trial.settings["solver"] == "sklearn"
    with pytest.raises(
        InputError, match=r"the sklearn solver holds all features in memory, about .*; use solver='torch'"
    ):
        run_probe(stored(400), sklearn, resources=ProbeResources(memory_bytes=10))


def test_scores_of_a_path_are_the_same_however_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    features = stored(400)
    rows = features.rows("val")
    reader = FeatureReader(features, SETTINGS, loss="softmax", resources=ProbeResources())
    probes = reader.fit(features.rows("train"), RegularizationPath(l2=(10.0, 1.0, 0.1)))
    together = list(reader.scores_of_each(rows, probes))
    monkeypatch.setattr(RESOURCES, lambda: 10)
    for one, other in zip(reader.scores_of_each(rows, probes), together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_fit_in_memory_takes_no_more_than_was_planned() -> None:
    """The peak of a process that fits 60,000 x 256 less that of one that fits 600, beside the plan of the first."""
    few, many = (
        int(subprocess.check_output([sys.executable, "-c", PEAK, rows], text=True)) for rows in ("600", "60000")
    )
    plan = DeviceMemory.planned((60_000, 256), 20, loss="softmax", weighted=False, device=torch.device("cpu"))
    matrix = 4 * 60_000 * 256
    assert matrix < many - few <= matrix + plan.needed_bytes


PEAK = """
import sys
import numpy as np
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.path import RegularizationPath

rows = int(sys.argv[1])
features = np.random.default_rng(0).standard_normal((rows, 256), dtype=np.float32)
labels = np.arange(rows) % 20
features[np.arange(rows), labels] += 2
fit_path(features, labels, FitSettings(num_classes=20, path=RegularizationPath.parse("1:1000:7")))
with open("/proc/self/status") as status:  # ru_maxrss would have the peak of the process that started this one
    print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))
"""
