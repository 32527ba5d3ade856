"""Read samples for DALI in groups: one task of a thread reads several files and parses their headers, once."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.decode.file_header import Size, jpeg_png_size
from penultimate.engine.images.decode.pillow import is_turned, reason_of
from penultimate.engine.images.image_source import ImageSource
from penultimate.store.errors import PenultimateError

# Shapes: H x W pixels of the image as stored.

GROUP = 16
"""Largest number of samples that one task reads. Handing over a task takes about as long as reading a small file."""

LARGEST_PIXELS = 32 * 2**20
"""Number of pixels (96 MiB) above which an image is decoded by Pillow, alone: in a run of DALI it would set the size of
buffers for all that follow, and Pillow refuses what is larger than its ``MAX_IMAGE_PIXELS``."""


class Sample(NamedTuple):
    """One sample that was read."""

    row: int
    """Row of the image in its ImageSet."""

    content: bytes | NDArray[np.uint8] | str
    """Encoded file, pixels (H, W, 3), or the reason why there is neither."""

    plain: Size | None
    """Size of an image that DALI is to decode; None for any other."""


def groups_of(rows: Iterable[int], *, batch_size: int) -> Iterator[Sequence[int]]:
    """Yield ``rows`` in groups of at most ``GROUP``, none of which spans two batches of ``batch_size``.

    Rows are taken as groups are.
    """
    remaining, in_batch = map(int, rows), 0
    while group := list(islice(remaining, min(GROUP, batch_size - in_batch))):
        in_batch = (in_batch + len(group)) % batch_size
        yield group


def read_samples(source: ImageSource, rows: Sequence[int], *, upright: bool) -> list[Sample]:
    """Read a group of samples and parse their headers.

    ``upright`` says that images are to be turned by their EXIF orientation; DALI is not given those that need it.
    Raises PenultimateError where the run must stop; a file that cannot be read becomes its sample's reason.
    """
    return [_read(source, row, upright=upright) for row in rows]


def _read(source: ImageSource, row: int, *, upright: bool) -> Sample:
    try:
        content = source.read(row)
    except PenultimateError:  # not this image's fault: the run stops
        raise
    except OSError as error:
        return Sample(row, reason_of(error), None)
    if not isinstance(content, bytes):
        return Sample(row, content, None)
    size = jpeg_png_size(content)
    if size is None or size.height * size.width > LARGEST_PIXELS or (upright and is_turned(content)):
        return Sample(row, content, None)
    return Sample(row, content, size)
