"""Find the nearest neighbours of unit rows by cosine distance, exactly, a block of rows against a block at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic

# Shapes: Q queries, N rows of the bank they are compared with, D feature dimensions, k neighbours, P pairs; B queries
# and C rows of the bank in one product.

QUERY_ROWS = 1_024
BANK_ROWS = 8_192
"""Rows of one product: its similarities take 32 MiB, whatever N is."""

ROUNDING = 1e-5
"""Margin on cosines of float32 products, within which a limit is checked again in float64. Sums of 10,000 products of
rows of length 1 are off by under 1e-6 as they come."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neighbors:
    """The k nearest rows of a bank for each query, nearest first."""

    rows_Qk: NDArray[np.int64]
    """Rows of the bank; -1 where fewer than k were compared."""

    distance_Qk: NDArray[np.float32]
    """Cosine distances, increasing; inf where there is no row. From float32 products: off by up to ``ROUNDING``."""


def nearest(
    queries_QD: NDArray[np.float32], bank_ND: NDArray[np.float32], k: int, *, same: bool, device: str = "cpu"
) -> Neighbors:
    """Return the k nearest rows of ``bank_ND`` for each query, by products in IEEE float32.

    Rows are of length 1 (``unit_rows``). ``same`` says that queries are the bank, where no row is its own neighbour.
    Memory beyond the arguments: the result, and about 0.2 GB. On ``cuda`` the bank is copied there as it is used, a
    block at a time.
    """
    best = BestRows(len(queries_QD), k, device)
    with torch.no_grad(), float32_arithmetic():
        for start in range(0, len(queries_QD), QUERY_ROWS):
            part = slice(start, start + QUERY_ROWS)
            for first, cosine_BC in _products(_tensor(queries_QD[part], device), bank_ND, device):
                if same:
                    _mask_self(cosine_BC, start, first)
                rows_C = torch.arange(first, first + cosine_BC.shape[1], device=device)
                best.take(cosine_BC, rows_C, queries=part)
    return best.neighbors()


def within(
    queries_QD: NDArray[np.float32],
    bank_ND: NDArray[np.float32],
    limit_Q: NDArray[np.float32],
    *,
    most: int,
    device: str = "cpu",
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return all pairs of a query and a row of the bank at a cosine distance up to the query's limit + ``ROUNDING``.

    Two arrays (P,): queries and rows of the bank; a row of the bank that is the query itself is among them. None where
    there are more than ``most``.
    """
    found_queries, found_rows, count = [], [], 0
    with torch.no_grad(), float32_arithmetic():
        for start in range(0, len(queries_QD), QUERY_ROWS):
            part = slice(start, start + QUERY_ROWS)
            query_BD = _tensor(queries_QD[part], device)
            least_B = 1 - ROUNDING - torch.from_numpy(limit_Q[part]).to(device)
            for first, cosine_BC in _products(query_BD, bank_ND, device):
                query_P, row_P = (cosine_BC >= least_B[:, None]).nonzero(as_tuple=True)
                count += len(query_P)
                if count > most:
                    return None
                found_queries.append(query_P.cpu().numpy() + start)
                found_rows.append(row_P.cpu().numpy() + first)
    return np.concatenate(found_queries or [np.empty(0, np.int64)]), np.concatenate(
        found_rows or [np.empty(0, np.int64)]
    )


class BestRows:
    """The k best rows of each of Q queries so far, with the similarities by which they are the best."""

    def __init__(self, num_queries: int, k: int, device: str) -> None:
        self.k = k
        self._similarity_Qk = torch.full((num_queries, k), -torch.inf, device=device)
        self._row_Qk = torch.full((num_queries, k), -1, dtype=torch.int64, device=device)

    def take(self, similarity_BC: Tensor, rows: Tensor, *, queries: Tensor | slice = slice(None)) -> None:
        """Take in how similar some queries are to more rows: to rows (C,) of all, or to rows (B, C) of each."""
        similarity_Bc, column_Bc = similarity_BC.topk(min(self.k, similarity_BC.shape[1]), dim=1)
        row_Bc = rows.expand(similarity_BC.shape).gather(1, column_Bc)
        self._similarity_Qk[queries], chosen = torch.cat([self._similarity_Qk[queries], similarity_Bc], 1).topk(
            self.k, 1
        )
        self._row_Qk[queries] = torch.cat([self._row_Qk[queries], row_Bc], 1).gather(1, chosen)

    def rows(self) -> NDArray[np.int64]:
        """Return the rows of each query, best first, -1 where there are fewer than k."""
        none_Qk = self._similarity_Qk == -torch.inf
        rows_Qk: NDArray[np.int64] = self._row_Qk.masked_fill(none_Qk, -1).cpu().numpy()
        return rows_Qk

    def neighbors(self) -> Neighbors:
        """Return the rows with their cosine distances, where similarities are cosines."""
        return Neighbors(rows_Qk=self.rows(), distance_Qk=(1 - self._similarity_Qk).clamp(min=0).cpu().numpy())


def _products(query_BD: Tensor, bank_ND: NDArray[np.float32], device: str) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the cosines (B, C) of each block of the bank."""
    for first in range(0, len(bank_ND), BANK_ROWS):
        yield first, query_BD @ _tensor(bank_ND[first : first + BANK_ROWS], device).T


def _mask_self(cosine_BC: Tensor, start: int, first: int) -> None:
    """Let no query be its own neighbour; ``start`` and ``first`` are the rows of the first query and column."""
    begin = max(start, first)
    end = max(begin, min(start + cosine_BC.shape[0], first + cosine_BC.shape[1]))
    rows = torch.arange(begin, end, device=cosine_BC.device)
    cosine_BC[rows - start, rows - first] = -torch.inf


def _tensor(rows: NDArray[np.float32], device: str) -> Tensor:
    return torch.from_numpy(rows).to(device)
