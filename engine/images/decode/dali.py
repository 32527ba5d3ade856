"""DaliDecoder decodes with DALI and resizes with torch's antialiased uint8 kernel, several images at a time."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline
from PIL import Image
from typing_extensions import override

from penultimate.engine.images.decode.dali_runs import DecodeCounts, IdlePipelines, run_or_halve
from penultimate.engine.images.decode.decoded_batch import DecodedBatch, Row, batched
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.pillow import STRIP_PIXELS, reason_of, resize_with_pillow, views_of
from penultimate.engine.images.decode.samples import LARGEST_PIXELS, Sample, groups_of, read_samples
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.prefetch import prefetch_map

# Shapes: H x W pixels of the image as stored, h x w of a view.

_CHUNK_IMAGES = 32
"""Number of images in one pipeline run: enough to keep all of its threads busy."""

_READ_GROUP = 4
"""Number of samples that one task reads: resizing takes so much longer that larger groups only come later."""


class DaliDecoder(Decoder):
    """Decode images with a DALI pipeline on the CPU, which needs no GPU and no driver, and resize them with torch.

    DALI decodes only files that it decodes exactly as Pillow does: plain JPEG and PNG files as
    ``file_header.jpeg_png_size`` defines them, which are nearly all there are. Every other kind (CMYK, palette, 16
    bits, GIF, WebP, TIFF, truncated files ...) is decoded by Pillow, or recorded as failed with Pillow's reason. So is
    each image that DALI cannot decode; what else DALI raises is raised (``dali_runs``). ``counts`` tells how many
    images each library decoded. The pixels do not depend on it, with one exception: DALI decodes a few damaged JPEG
    files that Pillow refuses.

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
        self._pipelines = IdlePipelines["_Pipeline"]()

    @override
    def batches(
        self, images: ImageSet, indices: Iterable[int], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:
        upright = any(view.exif_orientation for view in views)

        def read(group: Sequence[int]) -> list[Sample]:
            return read_samples(images.source, group, upright=upright)

        def finish(sample: Sample) -> Row:
            return self._finish(sample, views)

        def decode(chunk: list[Sample]) -> list[Sample]:
            return self._decode(pipeline, chunk)

        groups = groups_of(indices, batch_size=_READ_GROUP)
        with (
            self._pipelines.borrowed(None, lambda: _Pipeline(num_threads=self.num_workers)) as pipeline,
            ThreadPoolExecutor(self.num_workers, thread_name_prefix="dali-host") as pool,
            ThreadPoolExecutor(1, thread_name_prefix="dali-pipeline") as runner,
        ):
            samples = chain.from_iterable(prefetch_map(pool, read, groups, depth=2 * _CHUNK_IMAGES // _READ_GROUP))
            chunks = prefetch_map(runner, decode, _chunks(samples), depth=2)
            rows = prefetch_map(pool, finish, chain.from_iterable(chunks), depth=batch_size)
            yield from batched(rows, views, batch_size=batch_size)

    def _decode(self, pipeline: "_Pipeline", chunk: list[Sample]) -> list[Sample]:
        """Return the chunk with its plain files decoded, but for those that DALI cannot decode."""
        encoded = [(s.row, s.content) for s in chunk if s.plain and isinstance(s.content, bytes)]
        pixels: dict[int, NDArray[np.uint8]] = {}
        for files, decoded in run_or_halve(pipeline.run, encoded, self.counts):
            pixels |= {row: image for (row, _), image in zip(files, decoded or (), strict=False)}
        return [Sample(s.row, pixels[s.row], None) if s.row in pixels else s for s in chunk]

    def _finish(self, sample: Sample, views: Sequence[Preprocess]) -> Row:
        content = sample.content
        if isinstance(content, str):
            return Row(sample.row, content)
        try:
            if isinstance(content, bytes):
                self.counts.add(pillow=1)
                return Row(sample.row, views_of(content, views, _resized))
            return Row(sample.row, tuple(resize_with_torch(content, view) for view in views))
        except Exception as error:  # as in PillowDecoder: each becomes this row's reason
            return Row(sample.row, reason_of(error))


class _Pipeline:
    """A DALI pipeline that decodes plain files to RGB pixels, one run a call; it is rebuilt after a failed run."""

    def __init__(self, *, num_threads: int) -> None:
        self._num_threads = num_threads
        self._pipeline: Pipeline | None = None

    def run(self, files: Sequence[tuple[int, bytes]]) -> list[NDArray[np.uint8]]:
        """Return the pixels (H, W, 3) of each file, given with its row; raise RuntimeError as DALI does.

        The arrays are views of DALI's memory, which lives as long as they do.
        """
        pipeline = self._pipeline or self._build()
        self._pipeline = None  # "Current pipeline object is no longer valid" if it raises
        pipeline.feed_input("encoded", [np.frombuffer(content, np.uint8) for _, content in files])
        (pixels,) = pipeline.run()
        self._pipeline = pipeline
        return [np.asarray(pixels[position]) for position in range(len(files))]

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


def _chunks(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Yield consecutive samples in chunks of at most ``_CHUNK_IMAGES`` images and ``LARGEST_PIXELS`` pixels."""
    chunk: list[Sample] = []
    chunk_pixels = 0
    for sample in samples:
        pixels = sample.plain.height * sample.plain.width if sample.plain else 0
        if len(chunk) == _CHUNK_IMAGES or chunk_pixels + pixels > LARGEST_PIXELS:
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
