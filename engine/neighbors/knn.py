"""Classify by the most similar stored features: cosine similarities in, each class's part of the votes out.

The weighted k-nearest-neighbour classifier of instance discrimination (Wu et al. 2018, sec. 3.4), with which DINO
evaluates frozen features (Caron et al. 2021, app. F): of the k samples of the bank with the largest cosine similarity s
to a query, each votes for its class with weight exp(s / temperature).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.store.labels import PRESENT, UNCOUNTED

# Shapes: Q queries, N samples of the bank, B of them in a batch, D feature dimensions, k neighbours, K classes.

Batches = Callable[[], Iterator[NDArray[Any]]]
"""A function that reads features again, in the same order, as batches (B, D)."""

SIMILARITIES = 2**23
"""Number of similarities that are held at once, 32 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neighbors:
    """The most similar samples of the bank for each query, the most similar first."""

    similarity_Qk: NDArray[np.float32]
    """Cosine similarity; that of features that are all 0 is 0."""

    index_Qk: NDArray[np.int64]
    """Index of the sample in the bank, in the order in which it was read."""

    @classmethod
    def concatenate(cls, parts: list["Neighbors"]) -> "Neighbors":
        """Return the neighbours of several blocks of queries as one value."""
        return cls(
            similarity_Qk=np.concatenate([part.similarity_Qk for part in parts]),
            index_Qk=np.concatenate([part.index_Qk for part in parts]),
        )


def nearest(queries_QD: NDArray[Any], bank: Batches, *, k: int, device: torch.device) -> Neighbors:
    """Return the ``k`` samples of ``bank`` with the largest cosine similarity to each query, in one pass over it.

    Similarities are float32. Which of equally similar samples comes k-th is not determined. ``k`` is at most the size
    of the bank. Memory: the queries, a batch of the bank, and ``SIMILARITIES`` numbers.
    """
    with torch.no_grad(), float32_arithmetic():
        queries = _unit(queries_QD, device)
        similarity = torch.full((len(queries), k), -torch.inf, device=device)
        index = torch.zeros((len(queries), k), dtype=torch.int64, device=device)
        first = 0
        for batch_BD in bank():
            batch = _unit(batch_BD, device)
            for part in _slices(len(queries), max(1, SIMILARITIES // len(batch))):
                found = (queries[part] @ batch.T).topk(min(k, len(batch)))
                merged = torch.cat([similarity[part], found.values], dim=1).topk(k)
                known = torch.cat([index[part], found.indices + first], dim=1)
                similarity[part], index[part] = merged.values, known.gather(1, merged.indices)
            first += len(batch)
    return Neighbors(similarity_Qk=similarity.cpu().numpy(), index_Qk=index.cpu().numpy())


def vote_shares(
    neighbors: Neighbors, bank_labels: NDArray[Any], *, num_classes: int, k: int, temperature: float
) -> NDArray[np.float64]:
    """Return each class's part of the votes of the first ``k`` neighbours, (Q, K) in [0, 1].

    ``bank_labels`` are class indices (N,), for which rows sum to 1, or a matrix (N, K) of ``store.labels``, for which a
    neighbour votes in every class on its own and not where it is ``UNCOUNTED``; a class in which none may vote has 0.
    """
    similarity_Qk = neighbors.similarity_Qk[:, :k].astype(np.float64)
    weight_Qk = np.exp((similarity_Qk - similarity_Qk[:, :1]) / temperature)  # the largest weight is 1
    voters_Qk = bank_labels[neighbors.index_Qk[:, :k]]
    if bank_labels.ndim == 2:
        present_QK = np.einsum("qn,qnk->qk", weight_Qk, voters_Qk == PRESENT)
        counted_QK = np.einsum("qn,qnk->qk", weight_Qk, voters_Qk != UNCOUNTED)
        shares_QK: NDArray[np.float64] = np.zeros(present_QK.shape)
        np.divide(present_QK, counted_QK, out=shares_QK, where=counted_QK > 0)
        return shares_QK
    cells_Qk = np.arange(len(voters_Qk))[:, None] * num_classes + voters_Qk
    votes = np.bincount(cells_Qk.ravel(), weight_Qk.ravel(), minlength=len(voters_Qk) * num_classes)
    return np.asarray(votes.reshape(-1, num_classes) / weight_Qk.sum(1, keepdims=True))


def _unit(features_BD: NDArray[Any], device: torch.device) -> Tensor:
    return normalize(torch.from_numpy(np.array(features_BD, np.float32)).to(device), dim=1)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
