"""PillowDecoder is the reference decoder: every other one is measured by its distance to these pixels."""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from typing_extensions import override

from penultimate.engine.images.decode.decoded_batch import DecodedBatch, Row, batched
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.pixel_modes import to_rgb
from penultimate.engine.images.folders.file_kinds import HEAD_BYTES, READS_HEIC, kind_of_content, remedy_for
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.image_source import ImageSource
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

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright (CIPA DC-008, Exif 2.32, tag 0x0112)."""


class PillowDecoder(Decoder):
    """Decode and resize images with Pillow, on several threads.

    Pixels are those of torchvision's ``pil_loader``, ``Image.open(file).convert("RGB")``: EXIF orientation is not
    applied unless the Preprocess says so, an alpha channel is dropped, the first frame of an animation is taken. What
    ``convert`` would clip, deep integers and floats, is scaled by its range (``pixel_modes``). A truncated file, and
    one of more pixels than Pillow's ``MAX_IMAGE_PIXELS``, is recorded as failed.
    """

    name = "pillow"

    def __init__(self, *, num_workers: int = 1) -> None:
        """Use ``num_workers`` threads to read, decode and resize."""
        self.num_workers = num_workers

    @override
    def batches(
        self, images: ImageSet, indices: Iterable[int], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:

        def row(index: int) -> Row:
            return _row(images.source, index, views)

        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="pillow") as pool:
            rows = prefetch_map(pool, row, map(int, indices), depth=batch_size + self.num_workers)
            yield from batched(rows, views, batch_size=batch_size)


def _row(source: ImageSource, index: int, views: Sequence[Preprocess]) -> Row:
    try:
        return Row(index, views_of(source.read(index), views, resize_with_pillow))
    except PenultimateError:  # not this image's fault: the run stops
        raise
    except Exception as error:  # Pillow's plugins raise some ten kinds on bad files; each becomes this row's reason
        return Row(index, reason_of(error))


def views_of(
    content: bytes | NDArray[np.uint8], views: Sequence[Preprocess], resize: Callable[[Image.Image, Preprocess], Any]
) -> tuple[NDArray[np.uint8], ...]:
    """Decode and resize a file, or pixels (H, W, 3), to (h, w, 3) for each view; decode once for each orientation."""
    opened = {upright: open_image(content, upright=upright) for upright in {view.exif_orientation for view in views}}
    return tuple(np.asarray(resize(opened[view.exif_orientation], view)) for view in views)


def open_image(data: bytes | NDArray[np.uint8], *, upright: bool = False) -> Image.Image:
    """Load the RGB image of an encoded file, or of pixels (H, W, 3); raise what Pillow raises if that fails.

    ``upright`` turns it as its EXIF orientation says. Every decoder and augmenter opens images through here, but for
    the plain files that DALI decodes to the same pixels.
    """
    if isinstance(data, np.ndarray):
        return Image.fromarray(data)
    if not data:
        raise ValueError("empty file (0 bytes)")
    with _opened(data) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError(
                f"{image.width} x {image.height} pixels are more than Pillow's MAX_IMAGE_PIXELS ({limit})"
            )
        image.load()  # turns a TIFF by itself, and says no more that it is turned
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1)) if upright else None
        rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _opened(data: bytes) -> Image.Image:
    """Open an encoded file; raise ValueError for an image that another library would read, and name that library."""
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        kind = kind_of_content("", data[:HEAD_BYTES])
        if remedy := remedy_for([kind]):
            raise ValueError(f"a {kind} image, which no installed library reads{remedy}") from None
        raise


def is_turned(data: bytes) -> bool:
    """Return whether the EXIF orientation of an encoded image says that it must be rotated; False if it has none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNS
    except Exception:  # damaged metadata, or no image: decoding says which
        return False


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
        return "the file is gone" if error.errno else str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())
