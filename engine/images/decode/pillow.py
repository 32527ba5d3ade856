"""PillowDecoder is the reference decoder: every other one is measured by its distance to these pixels."""

import io
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from typing_extensions import override

from penultimate.engine.images.decode.decoded_batch import DecodedBatch, Row, batched
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.folders.file_kinds import READS_HEIC
from penultimate.engine.images.image_set import ImageSet, ImageSource
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.store.errors import PenultimateError

# Shapes: H x W pixels of the image as stored, h x w of a view.

# Pillow warns of odd metadata, and of images above its MAX_IMAGE_PIXELS, which ``open_image`` records as failed. The
# filters hold for the process, because ``warnings.catch_warnings`` is not safe among threads before Python 3.14.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

if READS_HEIC:
    from pillow_heif import register_heif_opener

    register_heif_opener()

STRIP_PIXELS = 32 * 2**20
"""Largest number of pixels of a resized image (96 MiB) that is made as a whole before it is cropped."""

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class PillowDecoder(Decoder):
    """Decode and resize images with Pillow, on several threads.

    Pixels are those of torchvision's ``pil_loader``, ``Image.open(file).convert("RGB")``: EXIF orientation is not
    applied, an alpha channel is dropped, the first frame of an animation is taken. One difference: 16-bit grayscale
    keeps its eight high bits, as Pillow itself does for 16-bit RGB, where ``convert`` would clip at 255 and give a
    white image. A truncated file, and one of more pixels than Pillow's ``MAX_IMAGE_PIXELS``, is recorded as failed.

    At most two batches of resized rows and ``num_workers`` images are in memory.
    """

    name = "pillow"

    def __init__(self, *, num_workers: int = 1) -> None:
        """Use ``num_workers`` threads to read, decode and resize."""
        self.num_workers = num_workers

    @override
    def batches(
        self, images: ImageSet, indices: NDArray[np.int64], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:

        def row(index: int) -> Row:
            return _row(images.source, index, views)

        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="pillow") as pool:
            rows = prefetch_map(pool, row, indices.tolist(), depth=batch_size + self.num_workers)
            yield from batched(rows, views, batch_size=batch_size)


def _row(source: ImageSource, index: int, views: Sequence[Preprocess]) -> Row:
    try:
        data = source.read(index)
        image = Image.fromarray(data) if isinstance(data, np.ndarray) else open_image(data)
        return Row(index, tuple(np.asarray(resize_with_pillow(image, view)) for view in views))
    except PenultimateError:  # not this image's fault: the run stops
        raise
    except Exception as error:  # Pillow's plugins raise some ten kinds on bad files; each becomes this row's reason
        return Row(index, reason_of(error))


def open_image(data: bytes) -> Image.Image:
    """Decode a file to an RGB image; raise whatever Pillow raises if it cannot be decoded."""
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
        image.info.pop("transparency", None)  # alpha is dropped; left in, a palette's makes ``convert`` warn
        return image.convert("RGB")


def resize_with_pillow(image: Image.Image, view: Preprocess) -> Image.Image:
    """Resize and crop ``image`` to the (h, w) pixels of ``view``, antialiased.

    If a strip is so long that resizing all of it would take more than ``STRIP_PIXELS``, only the box that the crop
    keeps is resized. That is not done for every image: Pillow rounds and clips between its two passes, and since 13.0
    their order depends on the sizes (python-pillow/Pillow#9549), so the pixels would not be timm's to the bit.
    """
    crop = view.crop_geometry(image.height, image.width)
    resample = _RESAMPLING[view.interpolation]
    if crop.height * crop.width <= STRIP_PIXELS:
        resized = image.resize((crop.width, crop.height), resample)
        return resized.crop((crop.left, crop.top, crop.left + view.width, crop.top + view.height))
    y, x = image.height / crop.height, image.width / crop.width
    right, bottom = (crop.left + view.width) * x, (crop.top + view.height) * y
    box = (crop.left * x, crop.top * y, min(right, image.width), min(bottom, image.height))  # products may round up
    return image.resize((view.width, view.height), resample, box=box)


def reason_of(error: Exception) -> str:
    """Say in one line why an image failed, in the same words for the same file every time."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a kind Pillow knows"  # Pillow's own text holds a memory address
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    return " ".join(f"{type(error).__name__}: {error}".split())
