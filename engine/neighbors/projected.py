"""Find nearest neighbours among candidates of a projection, for sets so large that all pairs take too long.

Rows are projected onto the directions in which they vary most, and divided into cells around centres (the inverted
file of Jegou, Douze & Schmid 2011, section 4). A row is compared, in the projection, with the rows of the few cells
whose centres are nearest to it; the best of these are compared with it exactly. Nothing found is wrong; something may
be missed, and how often that happens is measured on a sample of rows that are compared with all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.neighbors.nearest import BANK_ROWS, QUERY_ROWS, BestRows, Neighbors, nearest
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic

# Shapes: Q queries, N rows of the bank, D feature dimensions, d projected, C cells, V cells that a query visits, k
# neighbours, c candidates, S sampled queries, B rows of a batch.

DIMS = 128
"""Dimensions of the projection."""

VISITED = 4
"""Cells that a query visits, its nearest ones."""

CANDIDATES = 2
"""Candidates for each neighbour that is wanted."""

TRAINING_ROWS = 50_000
"""Rows, drawn at random, of which directions and centres are made."""

RECALL_ROWS = 1_000
"""Rows, drawn at random, on which the recall is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recall:
    """How often the nearest neighbour of a sampled row was found; copies, which are nearer, are missed less often."""

    num_rows: int
    num_found: int


def nearest_projected(
    queries_QD: NDArray[np.float32],
    bank_ND: NDArray[np.float32],
    k: int,
    *,
    same: bool,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[Neighbors, Recall]:
    """Return up to k neighbours of each query, and the recall of the nearest; arguments as in ``nearest``.

    Memory beyond the arguments: 4 (d + 1) bytes a row of both, 12 (2 c + V) bytes a query, and about 0.3 GB.
    """
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(len(bank_ND), min(TRAINING_ROWS, len(bank_ND)), replace=False))
    with torch.no_grad(), float32_arithmetic():
        basis_Dd = _directions(bank_ND[sample])
        bank_Ne = _projected(bank_ND, basis_Dd, constant=None)
        queries_Qe = _projected(queries_QD, basis_Dd, constant=1.0)
        centers_Ce = _centers(bank_Ne[sample], len(bank_ND), seed)
        candidates_Qc = _candidates(queries_Qe, bank_Ne, centers_Ce, CANDIDATES * k, same=same, device=device)
        del bank_Ne, queries_Qe
        found = _compared(queries_QD, bank_ND, candidates_Qc, k, device)
    asked = np.sort(rng.choice(len(queries_QD), min(RECALL_ROWS, len(queries_QD)), replace=False))
    return found, _recall(queries_QD, bank_ND, found, asked, same=same, device=device)


def _directions(sample_SD: NDArray[np.float32]) -> Tensor:
    """Return an orthonormal basis (D, d) of the directions of largest variance; d is at most D."""
    rows = torch.from_numpy(sample_SD)
    centered = rows - rows.mean(0)
    basis_DD: Tensor = torch.linalg.eigh(centered.T @ centered).eigenvectors  # by increasing variance
    return basis_DD[:, -DIMS:].contiguous()


def _projected(rows_ND: NDArray[np.float32], basis_Dd: Tensor, *, constant: float | None) -> Tensor:
    """Return rows y in the projection with one number more: -|y|^2 / 2, or ``constant``.

    The product of a query (x, 1) with a row (y, -|y|^2 / 2) is larger the nearer y is to x.
    """
    out_Ne = torch.empty(len(rows_ND), basis_Dd.shape[1] + 1)
    for start in range(0, len(rows_ND), BANK_ROWS):
        part = slice(start, start + BANK_ROWS)
        out_Ne[part, :-1] = torch.from_numpy(rows_ND[part]) @ basis_Dd
        out_Ne[part, -1] = out_Ne[part, :-1].square().sum(1) / -2 if constant is None else constant
    return out_Ne


def _centers(sample_Se: Tensor, num_rows: int, seed: int) -> Tensor:
    """Return the centres of about sqrt(N) cells, with -|c|^2 / 2 as ``_projected`` gives it."""
    from sklearn.cluster import MiniBatchKMeans

    count = min(max(1, round(num_rows**0.5)), len(sample_Se))
    fitted = MiniBatchKMeans(count, random_state=seed % 2**32, n_init=1, batch_size=4096, max_iter=20)
    centers = torch.from_numpy(fitted.fit(sample_Se[:, :-1].numpy()).cluster_centers_.astype(np.float32))
    return torch.cat([centers, centers.square().sum(1, keepdim=True) / -2], dim=1)


def _candidates(
    queries_Qe: Tensor, bank_Ne: Tensor, centers_Ce: Tensor, num: int, *, same: bool, device: str
) -> NDArray[np.int64]:
    """Return the candidates of each query, (Q, c) rows of the bank, -1 where there are fewer."""
    best = BestRows(len(queries_Qe), num, "cpu")
    members, visitors = _by_cell(bank_Ne, centers_Ce, 1), _by_cell(queries_Qe, centers_Ce, VISITED)
    for members_M, visitors_V in zip(members, visitors, strict=True):
        for query_B, row_B in _blocks(visitors_V, members_M):
            score_BM = queries_Qe[query_B].to(device) @ bank_Ne[row_B].to(device).T
            if same:
                score_BM.masked_fill_(query_B[:, None].to(device) == row_B.to(device), -torch.inf)
            best.take(score_BM.cpu() if device != "cpu" else score_BM, row_B, queries=query_B)
    return best.rows()


def _by_cell(rows_Ne: Tensor, centers_Ce: Tensor, num: int) -> list[Tensor]:
    """Return for each cell the rows, increasing, that have it among their ``num`` nearest."""
    num = min(num, len(centers_Ce))
    center_dC, constant_C = centers_Ce[:, :-1].T, centers_Ce[:, -1]
    batches = (rows_Be[:, :-1] for rows_Be in torch.split(rows_Ne, BANK_ROWS))
    cell_NV = torch.cat([(batch_Bd @ center_dC + constant_C).topk(num, dim=1).indices for batch_Bd in batches])
    order = cell_NV.flatten().argsort(stable=True)
    counts = torch.bincount(cell_NV.flatten(), minlength=len(centers_Ce)).tolist()
    return list(torch.split(order // num, counts))


def _blocks(queries: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pairs of blocks in which two lists of rows are compared."""
    if len(queries) and len(rows):
        yield from (
            (query_B, row_B) for query_B in torch.split(queries, QUERY_ROWS) for row_B in torch.split(rows, BANK_ROWS)
        )


def _compared(
    queries_QD: NDArray[np.float32], bank_ND: NDArray[np.float32], rows_Qc: NDArray[np.int64], k: int, device: str
) -> Neighbors:
    """Compare each query with its candidates in full, and return the k nearest of them."""
    best = BestRows(len(queries_QD), k, "cpu")
    bank = torch.from_numpy(bank_ND)
    for part in torch.split(torch.arange(len(queries_QD)), QUERY_ROWS):
        rows_Bc = torch.from_numpy(rows_Qc[part])
        query_BD = torch.from_numpy(queries_QD[part]).to(device)
        of_rows_BcD = bank[rows_Bc.clamp(min=0)].to(device)
        cosine_Bc = torch.bmm(of_rows_BcD, query_BD[:, :, None])[:, :, 0].cpu()
        best.take(cosine_Bc.masked_fill(rows_Bc < 0, -torch.inf), rows_Bc, queries=part)
    return best.neighbors()


def _recall(
    queries_QD: NDArray[np.float32],
    bank_ND: NDArray[np.float32],
    found: Neighbors,
    sample_S: NDArray[np.int64],
    *,
    same: bool,
    device: str,
) -> Recall:
    """Compare sampled queries with the whole bank, and count whose nearest neighbour, or one as near, was found."""
    exact = nearest(queries_QD[sample_S], bank_ND, 2, same=False, device=device)
    is_self_S = exact.rows_Qk[:, 0] == sample_S if same else np.zeros(len(sample_S), np.bool_)
    # Among rows equal to the query, the query itself may stand second: then the first is its neighbour.
    nearest_S = np.where(is_self_S, exact.distance_Qk[:, -1], exact.distance_Qk[:, 0])
    return Recall(num_rows=len(sample_S), num_found=int((found.distance_Qk[sample_S, 0] <= nearest_S + 1e-6).sum()))
