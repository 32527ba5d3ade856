"""Cut work on all samples or classes into pieces: cache-sized on a CPU, memory-sized on a GPU.

On a CPU each caller says how much fits a core's cache. On a GPU a piece has to keep it busy, and temporaries of all
samples are what does not fit: 1.28 million samples of 1,000 classes are 5 GB, and a pass makes half a dozen.
"""

import torch
from torch import Tensor

# Shapes: X any leading axes, M, R, P axes of matrices.

GPU_NUMBERS = 1 << 26
"""Number of scores worked on at once on a GPU: 256 MiB of float32, a hundred microseconds of memory traffic."""


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
