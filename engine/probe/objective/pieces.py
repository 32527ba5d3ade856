"""Cut work on all samples or classes into pieces: cache-sized on a CPU, memory-sized on a GPU.

On a CPU each caller says how much fits a core's cache. On a GPU a piece has to keep it busy, and temporaries of all
samples are what does not fit: 1.28 million samples of 1,000 classes are 5 GB, and a pass makes half a dozen.
"""

import torch
from torch import Tensor

from penultimate.engine.runtime.capabilities import is_intel

# Shapes: X any leading axes, M, R, P axes of matrices.

GPU_NUMBERS = 1 << 26
"""Number of scores worked on at once on a GPU: 256 MiB of float32, a hundred microseconds of memory traffic."""

SCORE_ROWS = 512
"""Number of rows whose scores are made at once on a CPU. All at once took longer on an EPYC with AVX2: 14.4 ms instead
of 9.3 for 102 columns of 3,060 rows x 1,288, and 272 instead of 129 for 100 columns of 50,000."""

NARROW = 64
"""Columns of scores below which products are faster sample-major: 79 ms instead of 94 for 40 of CIFAR-10's scores, 82
instead of 102 for what is gathered of them."""

FEWEST = 16
"""Columns from which that holds of what is gathered: of 10 it took 990 ms sample-major, and 47 the other way. On a Xeon
it holds of none: 45 ms instead of 31 for 40 of CIFAR-10's."""


def pieces(length: int, width: int, device: torch.device, *, cpu_piece: int | None = None) -> list[slice]:
    """Return slices that cover ``length`` rows of ``width`` numbers each.

    On a GPU they have ``GPU_NUMBERS`` numbers at most; on a CPU ``cpu_piece`` rows, by default all.
    """
    piece = max(1, GPU_NUMBERS // max(1, width)) if device.type == "cuda" else cpu_piece or max(1, length)
    return [slice(start, start + piece) for start in range(0, length, piece)]


def wide_product(left_MP: Tensor, right_PR: Tensor) -> Tensor:
    """Return left @ right: on a GPU, sums of a lower precision stay float32.

    They are summed in float32 anyway, and cuBLAS can leave them so; torch's CPU kernels round them to the operands'
    dtype.
    """
    if left_MP.device.type == "cuda" and left_MP.dtype.itemsize < 4:
        return torch.mm(left_MP, right_PR, out_dtype=torch.float32)
    return left_MP @ right_PR


def row_products(left_MR: Tensor, matrix_NR: Tensor, *, out_MN: Tensor | None = None) -> Tensor:
    """Return left @ matrix.T, (M, N), made as is fastest for these columns of scores: in ``out_MN`` or a new tensor."""
    narrow = len(left_MR) < NARROW
    if not _in_full_on_cpu(matrix_NR):
        product_MN = wide_product(matrix_NR, left_MR.T).T if narrow else wide_product(left_MR, matrix_NR.T)
        return product_MN.contiguous() if out_MN is None else out_MN.copy_(product_MN)
    if out_MN is None:
        out_MN = matrix_NR.new_empty(len(left_MR), len(matrix_NR))
    for start in range(0, len(matrix_NR), SCORE_ROWS):
        matrix_BR, out_MB = matrix_NR[start : start + SCORE_ROWS], out_MN[:, start : start + SCORE_ROWS]
        if narrow:
            out_MB.copy_((matrix_BR @ left_MR.T).T)
        else:
            torch.mm(left_MR, matrix_BR.T, out=out_MB)
    return out_MN


def gathered_rows(values_MN: Tensor, matrix_NR: Tensor) -> Tensor:
    """Return values @ matrix, (M, R), contiguous, made as is fastest for these columns of scores."""
    if _in_full_on_cpu(matrix_NR) and FEWEST <= len(values_MN) < NARROW and not is_intel():
        return (matrix_NR.T @ values_MN.T).T.contiguous()
    return wide_product(values_MN, matrix_NR)


def _in_full_on_cpu(matrix_NR: Tensor) -> bool:
    return matrix_NR.device.type != "cuda" and matrix_NR.dtype.itemsize >= 4
