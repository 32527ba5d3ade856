"""BatchDraws: the images of an update and the crop and flip of each, a pure function of (seed, step).

Nothing here has state, so a resumed run, a run on more devices and a run with another augmenter draw the same.
Random numbers come from Philox (Salmon et al. 2011), a generator with a counter: the key is (seed, purpose), the
counter starts at the epoch or the step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.train.recipe import Recipe

# Shapes: M training images, B images of an update, A attempts at a crop.

_ATTEMPTS = 10
"""Number of attempts at a crop, after which the centre is taken, as in torchvision's RandomResizedCrop."""

_ORDER, _CROPS, _DROPOUT = 0, 1, 2


class Box(NamedTuple):
    """A rectangle in the image as it is stored, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchDraws:
    """The images of one update, and the random numbers of each."""

    step: int
    rows_B: NDArray[np.int64]
    """Rows of the ImageSet."""

    crops_BA4: NDArray[np.float64]
    """Uniform in [0, 1): area, ratio, top and left of each attempt."""

    flips_B: NDArray[np.bool_]

    def part(self, rank: int, size: int) -> "BatchDraws":
        """Take the local batch of one of ``size`` devices; ``size`` divides B."""
        local_batch_size = len(self.rows_B) // size
        mine = slice(rank * local_batch_size, (rank + 1) * local_batch_size)
        return BatchDraws(
            step=self.step, rows_B=self.rows_B[mine], crops_BA4=self.crops_BA4[mine], flips_B=self.flips_B[mine]
        )


def draw_batch(recipe: Recipe, train_rows_M: NDArray[np.int64], step: int) -> BatchDraws:
    """Draw update ``step``, counted from 0.

    Within an epoch no image comes twice, and the incomplete last batch is dropped.
    """
    size = recipe.batch_size
    epoch, position = divmod(step, len(train_rows_M) // size)
    order_M = _order(recipe.seed, epoch, len(train_rows_M))
    rng = _generator(recipe.seed, _CROPS, step)
    return BatchDraws(
        step=step,
        rows_B=train_rows_M[order_M[position * size : (position + 1) * size]],
        crops_BA4=rng.random((size, _ATTEMPTS, 4)),
        flips_B=rng.random(size) < recipe.flip,
    )


def dropout_seed(recipe: Recipe, step: int, rank: int) -> int:
    """Return the seed, of 63 bits, of torch's generator for one update on one device."""
    return int(_generator(recipe.seed, _DROPOUT, step).integers(2**63, size=rank + 1)[rank])


def crop_box(
    height: int,
    width: int,
    uniforms_A4: NDArray[np.float64],
    *,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> Box:
    """Return the first attempt that fits in an image of ``height`` x ``width``, else a centre crop of an allowed ratio.

    The distribution is that of torchvision's ``RandomResizedCrop.get_params``: area uniform in ``scale``, log of
    the ratio uniform, position uniform.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area, shape, top, left in uniforms_A4.tolist():
        pixels = height * width * (scale[0] + area * (scale[1] - scale[0]))
        aspect = math.exp(low + shape * (high - low))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(top * (height - h + 1)), int(left * (width - w + 1)), h, w)
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return Box((height - h) // 2, (width - w) // 2, h, w)


@lru_cache(maxsize=2)  # an update needs its own epoch, and prefetching the next
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    order: NDArray[np.int64] = _generator(seed, _ORDER, epoch).permutation(count)
    order.setflags(write=False)
    return order


def _generator(seed: int, purpose: int, position: int) -> np.random.Generator:
    # The counter's lowest word is left to the draws themselves.
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, position, 0, 0]))
