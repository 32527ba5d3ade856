"""PillowDecoder: the reference. Every other decoder is measured by its distance to these pixels."""

import io
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from penultimate.engine.images.ahead import ahead
from penultimate.engine.images.decoded_batch import DecodedBatch, Row, batched
from penultimate.engine.images.image_set import ImageSet, ImageSource
from penultimate.engine.images.preprocess import Preprocess

# Shapes: H x W pixels of the image as stored, h x w of a view.

# Pillow announces images above its MAX_IMAGE_PIXELS by a warning. Here they are recorded as failed, by ``open_image``;
# a filter of this process, because ``warnings.catch_warnings`` is not safe among threads before Python 3.14.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class PillowDecoder:
    """Decodes and resizes with Pillow, on threads.

    Pixels are those of torchvision's ``pil_loader``, ``Image.open(file).convert("RGB")``: EXIF orientation is not
    applied, an alpha channel is dropped, the first frame of an animation is taken. One difference: 16-bit grayscale
    keeps its eight high bits, as Pillow itself does for 16-bit RGB, where ``convert`` would clip at 255 and give a
    white image. A truncated file, and one of more pixels than Pillow's ``MAX_IMAGE_PIXELS``, is recorded as failed.
    """

    name = "pillow"

    def __init__(self, *, num_workers: int = 1) -> None:
        """``num_workers`` threads read, decode and resize."""
        self.num_workers = num_workers

    def batches(
        self, images: ImageSet, indices: NDArray[np.int64], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:
        """See ``Decoder.batches``; at most two batches of resized rows and ``num_workers`` images are in memory."""

        def row(index: int) -> Row:
            return _row(images.source, index, views)

        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="pillow") as pool:
            rows = ahead(pool, row, indices.tolist(), depth=batch_size + self.num_workers)
            yield from batched(rows, views, batch_size=batch_size)


def _row(source: ImageSource, index: int, views: Sequence[Preprocess]) -> Row:
    try:
        data = source.read(index)
        image = Image.fromarray(data) if isinstance(data, np.ndarray) else open_image(data)
        return Row(index, tuple(np.asarray(resize_with_pillow(image, view)) for view in views))
    except Exception as error:  # Pillow's plugins raise some ten kinds on bad files; each becomes this row's reason
        return Row(index, reason_of(error))


def open_image(data: bytes) -> Image.Image:
    """The RGB image of an encoded file, loaded; whatever Pillow raises if it cannot be decoded."""
    if not data:
        raise ValueError("empty file (0 bytes)")
    with Image.open(io.BytesIO(data)) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError(
                f"{image.width} x {image.height} pixels are more than Pillow's MAX_IMAGE_PIXELS ({limit})"
            )
        if image.mode.startswith("I;16"):
            high = (np.asarray(image) >> 8).astype(np.uint8)
            return Image.fromarray(high).convert("RGB")
        return image.convert("RGB")


def resize_with_pillow(image: Image.Image, view: Preprocess) -> Image.Image:
    """``image`` as ``view`` asks, (h, w) pixels, antialiased.

    The crop is resized alone, from its box in the original: Pillow's filters read beyond the box, so the pixels
    are those of resizing all and cropping then, and a strip of 20,000 x 1 pixels needs no gigabytes.
    """
    place = view.placement(image.height, image.width)
    y, x = image.height / place.height, image.width / place.width
    box = (place.left * x, place.top * y, (place.left + view.width) * x, (place.top + view.height) * y)
    inside = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))  # the products may round up
    return image.resize((view.width, view.height), _RESAMPLING[view.interpolation], box=inside)


def reason_of(error: Exception) -> str:
    """One line, the same for the same file every time."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a kind Pillow knows"  # Pillow's own text holds a memory address
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    return " ".join(f"{type(error).__name__}: {error}".split())
