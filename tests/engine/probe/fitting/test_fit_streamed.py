"""The streamed path gives the in-memory answer within memory that does not grow with N."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from support.probe_cases import mixture
from torch import Tensor

from penultimate.engine.probe.fitting import survey
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.fit_streamed import fit_streamed
from penultimate.engine.probe.objective.rotated_features import Basis
from penultimate.engine.probe.objective.streamed import RowSource
from penultimate.engine.probe.path import RegularizationPath
from penultimate.store.errors import InputError

PATH = RegularizationPath.parse("1e-3:1e3:4")
MEMORY = 600_000


def source_of(features_ND: NDArray[np.float32], sizes: list[int] | None = None) -> RowSource:
    def batches(rows: int) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(features_ND), rows):
            block_BD = features_ND[start : start + rows]
            if sizes is not None:
                sizes.append(len(block_BD))
            yield block_BD

    return RowSource(num_rows=len(features_ND), feature_dim=features_ND.shape[1], batches=batches)


@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared_hinge"])
def test_it_gives_the_in_memory_answer(loss: str) -> None:
    features_ND, labels_N = mixture(3000)
    sizes: list[int] = []
    streamed = fit_streamed(
        source_of(features_ND, sizes), labels_N, FitSettings(num_classes=4, path=PATH, loss=loss), memory_bytes=MEMORY
    )
    held = fit_path(features_ND, labels_N, FitSettings(num_classes=4, path=PATH, loss=loss))
    assert max(sizes) < len(features_ND) / 4
    for one, other in zip(streamed, held, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-6)  # each within 1e-6
        np.testing.assert_allclose(one.scores(features_ND[:50]), other.scores(features_ND[:50]), atol=0.05)


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_sample_weights_count_as_in_memory(loss: str) -> None:
    features_ND, labels_N = mixture(3000)
    weight_N = np.random.default_rng(0).uniform(0.1, 3, size=3000)
    settings = FitSettings(num_classes=4, path=PATH, loss=loss)
    streamed = fit_streamed(source_of(features_ND), labels_N, settings, memory_bytes=MEMORY, sample_weight_N=weight_N)
    held = fit_path(features_ND, labels_N, settings, sample_weight_N=weight_N)
    for one, other in zip(streamed, held, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-4)  # each within 1e-4
        np.testing.assert_allclose(one.scores(features_ND[:50]), other.scores(features_ND[:50]), atol=0.05)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_basis_of_some_rows_leads_to_the_same_answer(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, labels_N = mixture(3000)
    weight_N = np.random.default_rng(0).uniform(0.1, 3, size=3000) if weighted else None
    fit = partial(
        fit_streamed,
        source_of(features_ND),
        labels_N,
        FitSettings(num_classes=4, path=PATH),
        memory_bytes=MEMORY,
        sample_weight_N=weight_N,
    )
    of_all = fit()
    bases: list[Basis] = []
    monkeypatch.setattr(survey, "LOW_ROWS", 100)
    monkeypatch.setattr(survey, "BASIS_ROWS", 1)

    def kept(mean_D: Tensor, rotation_DR: Tensor) -> Basis:
        bases.append(Basis(mean_D, rotation_DR))
        return bases[-1]

    monkeypatch.setattr(survey, "Basis", kept)
    of_some = fit()
    some_ND = features_ND[::30]
    weight_n = np.ones(100) if weight_N is None else weight_N[::30]
    np.testing.assert_allclose(bases[0].mean_D, np.average(some_ND, axis=0, weights=weight_n), rtol=1e-5, atol=1e-6)
    rotated_ND = (some_ND - bases[0].mean_D.numpy()) @ bases[0].rotation_DR.numpy()
    covariance_RR = rotated_ND.T @ (rotated_ND * weight_n[:, None]) / weight_n.sum()
    np.testing.assert_allclose(covariance_RR, np.diag(np.diag(covariance_RR)), atol=1e-5)
    for one, other in zip(of_some, of_all, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-4)  # each within 1e-4


@pytest.mark.slow
def test_a_sample_of_weight_two_is_two_samples() -> None:
    features_ND, labels_N = mixture(1500)
    settings = FitSettings(num_classes=4, path=PATH)
    twice = np.random.default_rng(0).integers(1, 3, size=1500)
    weighted = fit_streamed(
        source_of(features_ND), labels_N, settings, memory_bytes=MEMORY, sample_weight_N=twice.astype(float)
    )
    repeated = fit_streamed(
        source_of(np.repeat(features_ND, twice, axis=0)), np.repeat(labels_N, twice), settings, memory_bytes=MEMORY
    )
    for one, other in zip(weighted, repeated, strict=True):
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-4)  # each within 1e-4


def test_a_sample_that_does_not_count_is_refused() -> None:
    features_ND, labels_N = mixture(300)
    weight_N = np.ones(300)
    weight_N[7] = 0
    settings = FitSettings(num_classes=4, path=PATH)
    with pytest.raises(InputError, match="sample weights must be > 0; leave out the rows that do not count"):
        fit_streamed(source_of(features_ND), labels_N, settings, memory_bytes=MEMORY, sample_weight_N=weight_N)


def test_a_path_that_begins_at_its_solutions_reads_the_rows_less_often() -> None:
    features_ND, labels_N = mixture(3000)
    settings = FitSettings(num_classes=4, path=PATH)
    solved = fit_streamed(source_of(features_ND), labels_N, settings, memory_bytes=MEMORY)
    again = fit_streamed(source_of(features_ND), labels_N, settings, memory_bytes=MEMORY, start=solved)
    for one, other in zip(again, solved, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-4)  # each within 1e-4
        assert one.report.passes + one.report.curvature_passes < other.report.passes + other.report.curvature_passes


@pytest.mark.slow
def test_a_pass_serves_every_strength_and_blocks_do_not_grow_with_n() -> None:
    largest = []
    for rows in (2000, 4000):
        features_ND, labels_N = mixture(rows)
        sizes: list[int] = []
        probes = fit_streamed(
            source_of(features_ND, sizes), labels_N, FitSettings(num_classes=4, path=PATH), memory_bytes=MEMORY
        )
        largest.append(max(sizes))
        assert len({probe.report.passes for probe in probes}) == 1  # one block of strengths
    assert largest[0] == largest[1]


@pytest.mark.parametrize(("dims", "classes"), [(12, 4), (300, 2), (20, 200)], ids=["rows", "covariance", "weights"])
def test_a_limit_that_is_too_little_is_refused_saying_what_is_enough(dims: int, classes: int) -> None:
    features_ND, labels_N = mixture(2 * classes, dims, classes)
    settings = FitSettings(num_classes=classes, path=RegularizationPath(l2=(1.0,)))
    fit = partial(fit_streamed, source_of(features_ND), labels_N, settings)
    with pytest.raises(
        InputError, match=r"too little for .* classes of .* dimensions; give at least [\d,]+ MiB"
    ) as refused:
        fit(memory_bytes=1000)
    enough = int(refused.value.args[0].split()[-2].replace(",", ""))
    (probe,) = fit(memory_bytes=enough * 2**20)
    assert probe.report.certified


def test_rows_that_are_not_finite_are_named_by_their_index_among_all() -> None:
    features_ND, labels_N = mixture(4000)
    features_ND[3999, 0] = np.nan
    with pytest.raises(InputError, match="rows 3999"):
        fit_streamed(source_of(features_ND), labels_N, FitSettings(num_classes=4, path=PATH), memory_bytes=MEMORY)


PEAK = """
import resource, sys
import numpy as np
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.fitting.fit_streamed import fit_streamed
from penultimate.engine.probe.objective.streamed import RowSource

rows, dims = int(sys.argv[1]), 256
centres = np.random.default_rng(0).normal(size=(4, dims)).astype(np.float32) / 8
labels = np.arange(rows) % 4

def batches(count):
    for start in range(0, rows, count):
        own = labels[start : start + count]
        yield np.random.default_rng(start).normal(size=(len(own), dims)).astype(np.float32) + centres[own]

source = RowSource(num_rows=rows, feature_dim=dims, batches=batches)
path = RegularizationPath(l2=(1e4, 1e3))
probes = fit_streamed(source, labels, FitSettings(num_classes=4, path=path), memory_bytes=24 << 20)
assert all(probe.report.certified for probe in probes)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_n() -> None:
    """With 25 MB more of features the peak grows by at most 6 MB, for labels and threads.

    Blocks are mapped one by one: else glibc keeps holes between those of a first and a later size, up to a quarter of
    what passes through.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    few, many = (
        int(subprocess.check_output([sys.executable, "-c", PEAK, rows], text=True, env=environment))
        for rows in ("8000", "32000")
    )
    assert many - few < 6
