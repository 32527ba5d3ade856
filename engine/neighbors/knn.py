"""Classify by the most similar stored features: cosine similarities in, each class's part of the votes out.

The weighted k-nearest-neighbour classifier of instance discrimination (Wu et al. 2018, sec. 3.4), with which DINO
evaluates frozen features (Caron et al. 2021, app. F): of the k samples of the bank with the largest cosine similarity s
to a query, each votes for its class with weight exp(s / temperature).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penultimate.engine.neighbors.nearest import BestRows, Neighbors
from penultimate.engine.neighbors.unit_rows import scale_to_unit
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.store.labels import PRESENT, UNCOUNTED

# Shapes: Q queries, N samples of the bank, B of them in a batch, D feature dimensions, k neighbours, K classes.

Batches = Callable[[], Iterator[NDArray[Any]]]
"""A function that reads features again, in the same order, as batches (B, D)."""

QUERY_ROWS = 2_048
"""Number of queries that are compared with a batch of the bank at once."""


def nearest_streamed(queries_QD: NDArray[Any], bank: Batches, *, k: int, device: str) -> Neighbors:
    """Return the ``k`` samples of ``bank`` nearest to each query by cosine distance, in one pass over it.

    Like ``nearest`` for a bank that is not held: rows are indices in the order in which it is read, and features need
    not be of length 1. Which of equally near samples comes k-th is not determined. ``k`` is at most the size of the
    bank. Memory: the queries, a batch of the bank, and ``QUERY_ROWS`` similarities for each of its rows.
    """
    with torch.no_grad(), float32_arithmetic():
        queries = torch.from_numpy(_unit(queries_QD)).to(device)
        best, first = BestRows(len(queries), k, device), 0
        for batch_BD in bank():
            batch = torch.from_numpy(_unit(batch_BD)).to(device)
            rows = torch.arange(first, first + len(batch), device=device)
            for start in range(0, len(queries), QUERY_ROWS):
                part = slice(start, start + QUERY_ROWS)
                best.take(queries[part] @ batch.T, rows, queries=part)
            first += len(batch)
    return best.neighbors()


def concatenated(parts: Sequence[Neighbors]) -> Neighbors:
    """Return the neighbours of several blocks of queries as one value."""
    return Neighbors(
        rows_Qk=np.concatenate([part.rows_Qk for part in parts]),
        distance_Qk=np.concatenate([part.distance_Qk for part in parts]),
    )


def vote_shares(
    neighbors: Neighbors, bank_labels: NDArray[Any], *, num_classes: int, k: int, temperature: float
) -> NDArray[np.float64]:
    """Return each class's part of the votes of the first ``k`` neighbours, (Q, K) in [0, 1].

    ``bank_labels`` are class indices (N,), for which rows sum to 1, or a matrix (N, K) of ``store.labels``, for which a
    neighbour votes in every class on its own and not where it is ``UNCOUNTED``; a class in which none may vote has 0.
    """
    distance_Qk = neighbors.distance_Qk[:, :k].astype(np.float64)
    weight_Qk = np.exp((distance_Qk[:, :1] - distance_Qk) / temperature)  # the largest weight is 1
    voters_Qk = bank_labels[neighbors.rows_Qk[:, :k]]
    if bank_labels.ndim == 2:
        present_QK = np.einsum("qn,qnk->qk", weight_Qk, voters_Qk == PRESENT)
        counted_QK = np.einsum("qn,qnk->qk", weight_Qk, voters_Qk != UNCOUNTED)
        shares_QK: NDArray[np.float64] = np.zeros(present_QK.shape)
        np.divide(present_QK, counted_QK, out=shares_QK, where=counted_QK > 0)
        return shares_QK
    cells_Qk = np.arange(len(voters_Qk))[:, None] * num_classes + voters_Qk
    votes = np.bincount(cells_Qk.ravel(), weight_Qk.ravel(), minlength=len(voters_Qk) * num_classes)
    return np.asarray(votes.reshape(-1, num_classes) / weight_Qk.sum(1, keepdims=True))


def _unit(features_BD: NDArray[Any]) -> NDArray[np.float32]:
    unit_BD = np.array(features_BD, np.float32)
    scale_to_unit(unit_BD)
    return unit_BD
