"""DaliDecoder decodes with DALI and resizes with torch's antialiased uint8 kernel, several images at a time."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline
from PIL import Image
from typing_extensions import override

from penultimate.engine.images.decode.decoded_batch import DecodedBatch, Row, batched
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.file_header import Size, jpeg_png_size
from penultimate.engine.images.decode.pillow import STRIP_PIXELS, is_turned, reason_of, resize_with_pillow, views_of
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.store.errors import PenultimateError

# Shapes: H x W pixels of the image as stored, h x w of a view.

_CHUNK_IMAGES = 32
"""Number of images in one pipeline run: enough to keep all of its threads busy."""

_CHUNK_PIXELS = 32 * 2**20
"""Number of decoded pixels in one pipeline run (96 MiB); an image with more is decoded by Pillow, alone."""


@dataclass(slots=True)
class DecodeCounts:
    """Numbers of images that each library has decoded for one decoder; a failed one counts where it failed."""

    dali: int = 0
    """Number of images decoded by DALI."""

    pillow: int = 0
    """Number of images decoded by Pillow, for their kind or size or because DALI refused their chunk."""

    refused_chunks: int = 0
    """Number of pipeline runs in which DALI raised an error."""


@dataclass(frozen=True, slots=True)
class _Sample:
    index: int
    content: bytes | NDArray[np.uint8] | str
    """Encoded file, pixels (H, W, 3), or the reason why there is neither."""

    plain: Size | None
    """Size of an image that DALI is to decode; None for any other."""


class DaliDecoder(Decoder):
    """Decode images with a DALI pipeline on the CPU, which needs no GPU and no driver, and resize them with torch.

    DALI decodes only files that it decodes exactly as Pillow does: plain JPEG and PNG files as
    ``file_header.jpeg_png_size`` defines them, which are nearly all there are. Every other kind (CMYK, palette, 16
    bits, GIF, WebP, TIFF, truncated files ...) is decoded by Pillow, or recorded as failed with Pillow's reason. So is
    each image of a chunk in which DALI raises, since DALI does not say which image it was and its pipeline is lost.
    ``counts`` tells how many images each library decoded. The pixels do not depend on it, with one exception: DALI
    decodes a few damaged JPEG files that Pillow refuses.

    The resize is torch's ``interpolate(antialias=True)`` on uint8, a port of Pillow's filters: within 1 of 255 of
    Pillow's horizontal pass followed by its vertical one. Pillow 13 runs the vertical pass first where the height
    shrinks most (python-pillow/Pillow#9549); bicubic overshoot is clipped between the passes, so there a few pixels
    in a thousand lie up to some 20 off, beside saturated edges. On 125 ImageNet photographs, whole image to 224 px,
    bicubic, the mean distance is 0.03; DALI's own ``fn.resize`` on the CPU is 0.16 off and takes nine times as long
    (Pillow four times), side by side on one thread.

    At most three chunks of decoded images and two batches of rows are in memory.
    """

    name = "dali"

    def __init__(self, *, num_workers: int = 1) -> None:
        """Let DALI decode on ``num_workers`` threads, while as many others read and resize."""
        self.num_workers = num_workers
        self.counts = DecodeCounts()
        self._lock = threading.Lock()

    @override
    def batches(
        self, images: ImageSet, indices: Iterable[int], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:

        def load(index: int) -> _Sample:
            return _load(images.source, index, upright=any(view.exif_orientation for view in views))

        def finish(sample: _Sample) -> Row:
            return self._finish(sample, views)

        pipeline = _Pipeline(num_threads=self.num_workers)

        def decode(chunk: list[_Sample]) -> list[_Sample]:
            return self._decode(pipeline, chunk)

        with (
            ThreadPoolExecutor(self.num_workers, thread_name_prefix="dali-host") as pool,
            ThreadPoolExecutor(1, thread_name_prefix="dali-pipeline") as runner,
        ):
            samples = prefetch_map(pool, load, map(int, indices), depth=2 * _CHUNK_IMAGES)
            chunks = prefetch_map(runner, decode, _chunks(samples), depth=2)
            rows = prefetch_map(pool, finish, (sample for chunk in chunks for sample in chunk), depth=batch_size)
            yield from batched(rows, views, batch_size=batch_size)

    def _decode(self, pipeline: "_Pipeline", chunk: list[_Sample]) -> list[_Sample]:
        """Return the chunk with its plain files decoded; return it unchanged if DALI raises."""
        encoded = [sample.content for sample in chunk if sample.plain and isinstance(sample.content, bytes)]
        if not encoded:
            return chunk
        decoded = pipeline.run(encoded)
        if decoded is None:  # a damaged file looked complete; Pillow tells which one, and why
            self._count(refused_chunks=1)
            return chunk
        self._count(dali=len(encoded))
        pixels = iter(decoded)
        return [_Sample(s.index, next(pixels), None) if s.plain else s for s in chunk]

    def _finish(self, sample: _Sample, views: Sequence[Preprocess]) -> Row:
        content = sample.content
        if isinstance(content, str):
            return Row(sample.index, content)
        try:
            if isinstance(content, bytes):
                self._count(pillow=1)
                return Row(sample.index, views_of(content, views, _resized))
            return Row(sample.index, tuple(resize_with_torch(content, view) for view in views))
        except Exception as error:  # as in PillowDecoder: each becomes this row's reason
            return Row(sample.index, reason_of(error))

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)


class _Pipeline:
    """A DALI pipeline that decodes plain files to RGB pixels, one run a call; it is rebuilt after a failed run."""

    def __init__(self, *, num_threads: int) -> None:
        self._num_threads = num_threads
        self._pipeline: Pipeline | None = None

    def run(self, encoded: Sequence[bytes]) -> list[NDArray[np.uint8]] | None:
        """Return the pixels (H, W, 3) of each file, or None if one of them fails.

        The arrays are views of DALI's memory, which lives as long as they do.
        """
        if self._pipeline is None:
            self._pipeline = self._build()
        self._pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8) for data in encoded])
        try:
            (pixels,) = self._pipeline.run()
        except RuntimeError:
            self._pipeline = None  # "Current pipeline object is no longer valid"
            return None
        return [np.asarray(pixels[position]) for position in range(len(encoded))]

    def _build(self) -> Pipeline:
        # One run at a time on its own thread: a prefetching pipeline measured no faster (ratio 0.95 to 1.05), and
        # here an error belongs to the run that raised it, so nothing else in flight is lost with the pipeline.
        # exec_dynamic: outputs are counted references, so pixels outlive the next run without a copy.
        pipeline = Pipeline(
            batch_size=_CHUNK_IMAGES,
            num_threads=self._num_threads,
            device_id=None,
            prefetch_queue_depth=1,
            exec_dynamic=True,
        )
        with pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            pixels = fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)
            pipeline.set_outputs(pixels)
        pipeline.build()
        return pipeline


def _load(source: ImageSource, index: int, *, upright: bool = False) -> _Sample:
    """``upright``: what EXIF says is to be turned is left to Pillow."""
    try:
        content = source.read(index)
    except PenultimateError:  # not this image's fault: the run stops
        raise
    except OSError as error:
        return _Sample(index, reason_of(error), None)
    if not isinstance(content, bytes):
        return _Sample(index, content, None)
    size = None if upright and is_turned(content) else jpeg_png_size(content)
    return _Sample(index, content, size if size and size.height * size.width <= _CHUNK_PIXELS else None)


def _chunks(samples: Iterable[_Sample]) -> Iterator[list[_Sample]]:
    """Yield consecutive samples in chunks of at most ``_CHUNK_IMAGES`` images and ``_CHUNK_PIXELS`` pixels."""
    chunk: list[_Sample] = []
    chunk_pixels = 0
    for sample in samples:
        pixels = sample.plain.height * sample.plain.width if sample.plain else 0
        if len(chunk) == _CHUNK_IMAGES or chunk_pixels + pixels > _CHUNK_PIXELS:
            yield chunk
            chunk, chunk_pixels = [], 0
        chunk.append(sample)
        chunk_pixels += pixels
    if chunk:
        yield chunk


def _resized(image: Image.Image, view: Preprocess) -> NDArray[np.uint8]:
    return resize_with_torch(np.array(image), view)


def resize_with_torch(image_HWC: NDArray[np.uint8], view: Preprocess) -> NDArray[np.uint8]:
    """Resize and crop ``image_HWC`` to the (h, w, 3) pixels of ``view``, antialiased."""
    crop = view.crop_geometry(*image_HWC.shape[:2])
    if crop.height * crop.width > STRIP_PIXELS:
        return np.asarray(resize_with_pillow(Image.fromarray(image_HWC), view))
    image_1CHW = torch.from_numpy(np.require(image_HWC, requirements=["C", "W"])).permute(2, 0, 1).unsqueeze(0)
    resized_1CHW = torch.nn.functional.interpolate(
        image_1CHW, size=(crop.height, crop.width), mode=view.interpolation, align_corners=False, antialias=True
    )
    resized_HWC: NDArray[np.uint8] = resized_1CHW.squeeze(0).permute(1, 2, 0).numpy()
    return resized_HWC[crop.top : crop.top + view.height, crop.left : crop.left + view.width]
