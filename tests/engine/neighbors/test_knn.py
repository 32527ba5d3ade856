"""Nearest neighbours and their votes agree with scikit-learn, whatever the batches."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier
from support.probe_cases import mixture
from support.simulated_cuda import simulated_cuda

from penultimate.engine.neighbors import knn
from penultimate.engine.neighbors.knn import nearest_streamed, vote_shares
from penultimate.engine.neighbors.nearest import Neighbors
from penultimate.store.labels import UNCOUNTED

FEATURES_ND, LABELS_N = mixture(400, 12, 4)
BANK_ND, BANK_LABELS_N, QUERIES_QD = FEATURES_ND[:300], LABELS_N[:300], FEATURES_ND[300:]


def found(*, k: int, batch: int = 300, device: str = "cpu") -> Neighbors:
    def bank() -> Iterator[NDArray[Any]]:
        return (BANK_ND[start : start + batch] for start in range(0, len(BANK_ND), batch))

    return nearest_streamed(QUERIES_QD, bank, k=k, device=device)


@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
@pytest.mark.parametrize("k", [1, 5, 50, 300])
def test_votes_are_those_of_scikit_learn(k: int, temperature: float) -> None:
    def weights(distances: NDArray[Any]) -> NDArray[Any]:
        return np.exp((1 - distances) / temperature)

    reference = KNeighborsClassifier(k, metric="cosine", weights=weights).fit(BANK_ND.astype(float), BANK_LABELS_N)
    shares = vote_shares(found(k=k), BANK_LABELS_N, num_classes=4, k=k, temperature=temperature)
    # Similarities are float32: 1e-7, which a temperature of 0.02 multiplies by 50.
    np.testing.assert_allclose(shares, reference.predict_proba(QUERIES_QD.astype(float)), atol=2e-5)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_neighbours_do_not_depend_on_batches_and_blocks(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(k=20)
    monkeypatch.setattr(knn, "QUERY_ROWS", 3)
    streamed = found(k=20, batch=batch)
    np.testing.assert_allclose(streamed.distance_Qk, whole.distance_Qk, atol=1e-6)
    assert (streamed.rows_Qk == whole.rows_Qk).mean() > 0.99  # rounding may change places of all but equals


def test_a_gpu_finds_the_same_neighbours() -> None:
    wanted = found(k=5)
    with simulated_cuda():
        on_gpu = found(k=5, batch=100, device="cuda")
    np.testing.assert_allclose(on_gpu.distance_Qk, wanted.distance_Qk, atol=1e-6)


def test_scaling_a_feature_vector_changes_no_vote() -> None:
    scaled = nearest_streamed(QUERIES_QD * 7, lambda: iter([BANK_ND * 0.01]), k=5, device="cpu")
    np.testing.assert_allclose(scaled.distance_Qk, found(k=5).distance_Qk, atol=1e-6)


def test_fewer_neighbours_are_the_first_of_more() -> None:
    few, many = (vote_shares(found(k=k), BANK_LABELS_N, num_classes=4, k=5, temperature=0.07) for k in (5, 50))
    np.testing.assert_allclose(few, many, atol=1e-5)


def test_of_several_labels_each_has_its_own_votes_and_uncounted_ones_abstain() -> None:
    neighbors = Neighbors(distance_Qk=np.zeros((1, 3), np.float32), rows_Qk=np.array([[0, 1, 2]]))
    labels_NK = np.array([[1, 1, UNCOUNTED], [0, 1, UNCOUNTED], [0, UNCOUNTED, UNCOUNTED]], np.uint8)
    shares = vote_shares(neighbors, labels_NK, num_classes=3, k=3, temperature=0.1)
    np.testing.assert_allclose(shares, [[1 / 3, 1.0, 0.0]])
