"""Plan a fit in the memory of its device before it begins: what it will take at most, and whether that fits.

A GPU that is out of memory ends a fit in the middle of it. The plan counts the arrays that are alive together; a
simulated device holds it to what a fit allocates (``tests/engine/probe/fitting/test_fit_cuda.py``). On a CPU the limit
is whoever reads the features' (``reader.py``), and nothing is refused here.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch

from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.objective.make_design import choose_precision
from penultimate.engine.probe.objective.pieces import GPU_NUMBERS
from penultimate.engine.probe.objective.rotated_features import padded_columns
from penultimate.engine.probe.preconditioners.low_rank import class_rows
from penultimate.engine.probe.preconditioners.support_vectors import MAX_NUMBERS
from penultimate.engine.probe.solver.continuation import SPAN, block_strengths, is_large

# Shapes: N samples, D feature dimensions, K classes, S strengths side by side, R rotated columns, X rows of a class.

USABLE = 0.95
"""Fraction of the free memory that is planned with: libraries' workspaces and fragmentation take some."""

TEMPORARIES = 8
"""Number of arrays of a piece's size that an operation on pieces holds at once, such as a loss and its derivatives."""

VECTORS = 24
"""Number of arrays of the weights' shape, float64, that Newton and conjugate gradients hold at once."""

MOMENTS = 8
"""Number of (K, K) arrays, float64, that the repair of a dual point holds at once."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory that a fit takes on its device, and the memory that there is."""

    needed_bytes: int
    """The most that is alive at once, with the low-rank preconditioner."""

    solving_bytes: int
    """The most that is alive while strengths are solved, without a preconditioner."""

    usable_bytes: float
    """Memory that there is; inf on a CPU."""

    @classmethod
    def planned(cls, shape: tuple[int, int], classes: int, *, loss: str, weighted: bool, device: torch.device) -> Self:
        """Plan the fit of features of ``shape`` (N, D), of so many classes, on ``device``."""
        rows, dims = shape
        precision = choose_precision(rows * dims, LOSSES[loss], device)
        full, low = precision.full.itemsize, 0 if precision.low is None else precision.low.itemsize
        columns = padded_columns(min(rows, dims))
        rotating = rows * (2 * dims * full + max(2 * dims, columns * full) + (8 * dims if weighted else 0))
        strengths = block_strengths(classes)
        scores = rows * classes * _score_arrays(classes, rows, strengths, smooth=LOSSES[loss].smooth, weighted=weighted)
        scores += rows * classes * (loss != "softmax")  # the signs of the labels
        piece = TEMPORARIES * min(GPU_NUMBERS, max(strengths, SPAN) * rows * classes)
        solving = (
            rows * columns * (full + low)
            + full * (scores + piece)
            + 8 * strengths * classes * (VECTORS * columns + MOMENTS * classes)
        )
        some = class_rows(rows, classes, dear=False)
        preconditioner = classes * some * (columns * full + 3 * 8 * some)
        if not LOSSES[loss].smooth:
            preconditioner = 3 * 8 * MAX_NUMBERS if full == 8 else 0
        usable = usable_bytes(device) if device.type == "cuda" else math.inf
        return cls(max(rotating, solving + preconditioner), solving, usable)

    @property
    def fits(self) -> bool:
        """Return whether the fit fits in the memory that there is."""
        return self.needed_bytes <= self.usable_bytes

    @property
    def spare_bytes(self) -> float:
        """Return the memory that a preconditioner may take."""
        return self.usable_bytes - self.solving_bytes

    def sentence(self) -> str:
        """Return what does not fit, for a log or an error."""
        return (
            f"the fit takes about {self.needed_bytes / 1e9:.1f} GB of the GPU's memory at once, and "
            f"{self.usable_bytes / 1e9:.1f} GB can be used"
        )


def usable_bytes(device: torch.device) -> float:
    """Return the memory of a GPU that a fit may plan with."""
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return USABLE * (free + cached)


def _score_arrays(classes: int, rows: int, strengths: int, *, smooth: bool, weighted: bool) -> int:
    """Return the number of arrays (K, N) that are alive at once: scores of nodes, and what a block of strengths has."""
    # Of a block: scores, residuals, and the next point's scores and residuals, of which one is not yet made; the slopes
    # of the squared hinge need the change of scores too, and weights a copy.
    block = (4 if smooth else 5) + weighted
    if not smooth or is_large(classes, rows):
        return strengths * (block + 1)
    return strengths * (block + math.ceil(SPAN / strengths) + 1)
