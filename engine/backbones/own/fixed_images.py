"""Make the images by which a network is known again: the same bytes on every machine and with every version.

They are made of whole numbers alone. Like photographs they have the more contrast the coarser the detail, and a mean
near ImageNet's, so that a network is shown the kind of input that it is made for.
"""

import numpy as np
from numpy.typing import NDArray

# Shapes: H x W pixels, C = 3 channels.

_MEAN, _CONTRAST = 116, 66
"""Mean of a pixel, which is ImageNet's, and strength of the coarsest octave, out of 255."""

_UNIT = 1 << 16


def fixed_image(height: int, width: int, number: int) -> NDArray[np.uint8]:
    """Return image ``number``, (H, W, 3): noise in octaves, each half as large and half as strong as the one before."""
    grey = _octaves(height, width, 16 * number)
    colour = np.stack([_octaves(height, width, 16 * number + channel) for channel in (1, 2, 3)], axis=-1)
    pixels: NDArray[np.int64] = _MEAN + (3 * grey[..., None] + colour) * _CONTRAST // (2 * _UNIT)
    return pixels.clip(0, 255).astype(np.uint8)


def _octaves(height: int, width: int, seed: int) -> NDArray[np.int64]:
    """Return the sum (H, W) of octaves, the coarsest a quarter of the image wide and of strength 1 (``_UNIT``)."""
    total = np.zeros((height, width), np.int64)
    cell, strength = max(2, max(height, width) // 4), _UNIT
    while cell >= 2:
        total += _lattice(height, width, cell, seed) * strength // _UNIT
        cell, strength = cell // 2, strength // 2
    return total


def _lattice(height: int, width: int, cell: int, seed: int) -> NDArray[np.int64]:
    """Interpolate between values in [-_UNIT, _UNIT) at the corners of cells; returns (H, W)."""
    y, x = np.arange(height, dtype=np.int64)[:, None], np.arange(width, dtype=np.int64)[None, :]
    (top, below), (left, beside) = np.divmod(y, cell), np.divmod(x, cell)
    corner = [[_hashed(top + i, left + j, cell, seed) for j in (0, 1)] for i in (0, 1)]
    upper, lower = (a * (cell - beside) + b * beside for a, b in corner)
    total: NDArray[np.int64] = (upper * (cell - below) + lower * below) // (cell * cell)
    return total


def _hashed(y: NDArray[np.int64], x: NDArray[np.int64], cell: int, seed: int) -> NDArray[np.int64]:
    """Return values in [-_UNIT, _UNIT) that look random: a multiplicative hash of the arguments."""
    mixed = (y * 0x9E3779B1 + x * 0x85EBCA77 + cell * 0xC2B2AE3D + seed * 0x27D4EB2F).astype(np.uint64)
    for shift in (15, 13):
        mixed = ((mixed ^ (mixed >> np.uint64(shift))) * np.uint64(0x2C1B3C6D)) & np.uint64(0xFFFFFFFF)
    return (mixed >> np.uint64(15)).astype(np.int64) - _UNIT
