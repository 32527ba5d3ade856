"""Convert any mode that Pillow opens to 8-bit RGB, scaled by the range of its numbers and never clipped.

``convert("RGB")`` does that for modes of 8 bits a channel and fewer. It clips the others at 255, so that a 16-bit image
turns white, and floats from 0 to 1 turn black:

    I;16, I;16B, I;16L, I;16N    16-bit grayscale: the 8 high bits of 16, or of the 12 that a TIFF declares
    I (PGM)                      Pillow's mode for PGM files of more than 8 bits, scaled to 16 bits by it: the same
    I (other files)              32-bit integers, which declare no range: ValueError
    F                            0 to 1 or, where the largest is above 1, 0 to 255; otherwise ValueError

What a deep mode holds may fill a small part of its range (12 bits of a camera in 16 bits of a PNG). Such an image would
be as good as black, and is refused with a ValueError that names the mode.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Shapes: H x W pixels.

DARKEST_WHITE = 16
"""Level, out of 255: a deep image whose brightest pixel is below this, and not 0, is refused as black."""

_TIFF_BITS_PER_SAMPLE = 258


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert ``image`` to RGB of 8 bits; raise ValueError, which names the mode, where that cannot be done."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_levels(np.asarray(image), _bits(image), mode)
    if mode == "I" and image.format == "PPM":
        return _from_levels(np.asarray(image), 16, mode)
    if mode == "I":
        raise ValueError("mode I, integers of 32 bits, declares no range to scale by: save it with 8 or 16 bits")
    if mode == "F":
        return _from_floats(np.asarray(image))
    image.info.pop("transparency", None)  # alpha is dropped; left in, a palette's makes ``convert`` warn
    try:
        # Colours multiplied by alpha (``RGBa``, ``La``) are divided by it first, which Pillow does only to these modes.
        whole = image.convert(mode.upper()) if mode in ("RGBa", "La") else image
        return whole.convert("RGB")
    except ValueError as error:
        raise ValueError(f"mode {mode} cannot be converted to RGB: {error}") from error


def _bits(image: Image.Image) -> int:
    """Return the bits of a pixel's range: 16, or the 12 of a TIFF, which Pillow unpacks unscaled."""
    declared = getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, (16,))
    return int(declared[0] if isinstance(declared, tuple) else declared)


def _from_levels(levels_HW: NDArray[np.integer[Any]], bits: int, mode: str) -> Image.Image:
    """Return the eight high bits of numbers of so many ``bits``."""
    high_HW = (levels_HW >> (bits - 8)).astype(np.uint8)
    return _gray(high_HW, mode, f"up to {levels_HW.max()} of {2**bits - 1}", is_black=not levels_HW.any())


def _from_floats(values_HW: NDArray[np.float32]) -> Image.Image:
    low, high = float(values_HW.min()), float(values_HW.max())
    if not 0 <= low <= high <= 255:  # NaN fails too
        raise ValueError(f"mode F holds values from {low:g} to {high:g}, expected 0 to 1, or 0 to 255")
    levels_HW = (np.rint(values_HW * 255) if high <= 1 else values_HW).astype(np.uint8)
    return _gray(levels_HW, "F", f"{low:g} to {high:g}", is_black=high == 0)


def _gray(levels_HW: NDArray[np.uint8], mode: str, values: str, *, is_black: bool) -> Image.Image:
    """Make RGB of levels; raise ValueError if they are nearly black while the file is not (``is_black``)."""
    if levels_HW.max() < DARKEST_WHITE and not is_black:
        raise ValueError(f"mode {mode} holds values {values}, as good as black: scale them to the whole range")
    return Image.fromarray(levels_HW).convert("RGB")
