"""The streamed path gives the in-memory answer within memory that does not grow with N."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from probe_cases import mixture

from penultimate.engine.probe.fit import fit_path
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.streamed import RowSource, fit_streamed
from penultimate.store.errors import InputError

PATH = RegularizationPath.parse("1e-4:1e4:9")
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
    features_ND, labels_N = mixture(4000)
    sizes: list[int] = []
    streamed = fit_streamed(
        source_of(features_ND, sizes), labels_N, num_classes=4, path=PATH, memory_bytes=MEMORY, loss=loss
    )
    held = fit_path(features_ND, labels_N, num_classes=4, path=PATH, loss=loss)
    assert max(sizes) < len(features_ND) / 4
    for one, other in zip(streamed, held, strict=True):
        assert one.report.certified
        assert one.report.objective == pytest.approx(other.report.objective, rel=2e-6)  # each within 1e-6
        np.testing.assert_allclose(one.scores(features_ND[:50]), other.scores(features_ND[:50]), atol=0.05)


def test_a_pass_serves_every_strength_and_blocks_do_not_grow_with_n() -> None:
    largest = []
    for rows in (3000, 6000):
        features_ND, labels_N = mixture(rows)
        sizes: list[int] = []
        probes = fit_streamed(source_of(features_ND, sizes), labels_N, num_classes=4, path=PATH, memory_bytes=MEMORY)
        largest.append(max(sizes))
        assert len({probe.report.passes for probe in probes}) == 1  # one block of strengths
    assert largest[0] == largest[1]


def test_a_limit_that_holds_no_covariance_is_refused() -> None:
    features_ND, labels_N = mixture()
    with pytest.raises(InputError, match="too little"):
        fit_streamed(source_of(features_ND), labels_N, num_classes=4, path=PATH, memory_bytes=1000)


def test_rows_that_are_not_finite_are_named_by_their_place_in_all() -> None:
    features_ND, labels_N = mixture(4000)
    features_ND[3999, 0] = np.nan
    with pytest.raises(InputError, match="rows 3999"):
        fit_streamed(source_of(features_ND), labels_N, num_classes=4, path=PATH, memory_bytes=MEMORY)
