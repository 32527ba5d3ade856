"""DaliAugmenter: decodes only the crop of each image with DALI; on a GPU, DALI resizes and flips it too.

DALI's own random operators are not used: their state cannot be set to that of an earlier update, so a resumed run
would see other crops. ``draws`` draws the boxes and flips, which are fed to the pipeline.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline
from torch import Tensor

from penultimate.engine.images.decode.dali_gpu_pipeline import JPEG_OPTIONS
from penultimate.engine.images.decode.dali_runs import (
    MAX_GPU_THREADS,
    DecodeCounts,
    refuse_if_dali_is_broken,
    run_or_halve,
    runs_within,
)
from penultimate.engine.images.decode.file_header import jpeg_png_size
from penultimate.engine.images.decode.pillow import is_turned, reason_of
from penultimate.engine.images.decode.samples import LARGEST_PIXELS, groups_of
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.train.augment.augmenter import AugmentedBatch, Cropped, CropSettings, batch_of
from penultimate.engine.train.augment.draws import BatchDraws, Box, crop_box
from penultimate.engine.train.augment.pillow import cropped_with_pillow

# Shapes: B images of a batch, P of them plain, H x W pixels of the input, h x w of a crop, C = 3 channels (RGB).

_INTERPOLATION = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}


class _Plain(NamedTuple):
    """One encoded image for DALI, with its crop."""

    position: int
    """Position of the image in its batch."""

    data: bytes
    box: Box
    flip: bool


class DaliAugmenter:
    """Leaves to DALI the images it decodes as Pillow does (see ``jpeg_png_size``), and all other kinds to Pillow.

    On the CPU (``device_id=None``, which needs no driver) DALI decodes the crops and torch's antialiased uint8
    kernel resizes them, measured at a third of the time of ``fn.resize`` and nearer to Pillow. On a GPU the hybrid
    decoder, the resize and the flip run there and the pixels never come back. An image that DALI cannot decode is made
    by Pillow; what else DALI raises is raised (``dali_runs``). ``counts`` tells how many images each library made.
    """

    name = "dali"

    def __init__(self, *, num_workers: int = 1, device: torch.device) -> None:
        """Start ``num_workers`` threads that read, decode and resize; the pixels end on ``device``."""
        self.counts = DecodeCounts()
        self._device = device
        self._num_workers = num_workers
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="dali-augment")
        self._pipelines: dict[tuple[int, CropSettings], Pipeline] = {}
        # A stream of its own: on the default one, every copy would wait for the updates that are queued there.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def augment(self, images: ImageSet, draws: BatchDraws, settings: CropSettings) -> AugmentedBatch:
        """Crop, resize and flip every image drawn; any CUDA stream may use the pixels once this returns."""
        if self._stream is None:
            return self._augment(images, draws, settings)
        with torch.cuda.stream(self._stream):
            batch = self._augment(images, draws, settings)
        self._stream.synchronize()
        return batch

    def _augment(self, images: ImageSet, draws: BatchDraws, settings: CropSettings) -> AugmentedBatch:

        def read(positions: Sequence[int]) -> list[_Plain | str | None]:
            return [_read(images, draws, position, settings) for position in positions]

        positions = range(len(draws.rows_B))
        groups = groups_of(positions, batch_size=-(-len(positions) // self._num_workers))
        found = list(chain.from_iterable(self._pool.map(read, groups)))
        decoded = self._decoded([image for image in found if isinstance(image, _Plain)], settings)

        def finish(position: int) -> Cropped:
            reason = found[position]
            if isinstance(reason, str):
                return Cropped(int(draws.rows_B[position]), reason)
            if position in decoded:
                return Cropped(int(draws.rows_B[position]), decoded[position])
            return self._with_pillow(images, draws, position, settings)

        made = list(self._pool.map(finish, positions))
        by_pillow = [made[i] for i in positions if isinstance(found[i], _Plain) and i not in decoded]
        refuse_if_dali_is_broken(
            num_run=len(decoded) + len(by_pillow),
            num_by_dali=len(decoded),
            num_by_pillow=sum(not isinstance(image.result, str) for image in by_pillow),
        )
        return batch_of(draws.step, made)

    def _decoded(self, plain: Sequence[_Plain], settings: CropSettings) -> dict[int, Tensor]:
        """Decode the plain images: position in the batch -> pixels, but for those that DALI cannot decode."""

        def run(images: Sequence[_Plain]) -> list[Tensor]:
            return self._run(images, settings)

        decoded: dict[int, Tensor] = {}
        for part in runs_within(plain, lambda image: image.box.height * image.box.width):
            for images, pixels in run_or_halve(run, part, self.counts):
                decoded |= {image.position: one for image, one in zip(images, pixels or (), strict=False)}
        return decoded

    def _with_pillow(self, images: ImageSet, draws: BatchDraws, position: int, settings: CropSettings) -> Cropped:
        self.counts.add(pillow=1)
        row, result = cropped_with_pillow(images, draws, position, settings)
        return Cropped(row, result if isinstance(result, str) else result.to(self._device))

    def _run(self, images: Sequence[_Plain], settings: CropSettings) -> list[Tensor]:
        """Return (H, W, C) pixels of each image, on the device; raise RuntimeError, which may be for one's sake."""
        size = 1 << (len(images) - 1).bit_length()
        # One pipeline for each power of two of images, so that leaving some to Pillow needs no new one. It is kept
        # only if the run succeeds: "Current pipeline object is no longer valid".
        pipeline = self._pipelines.pop((size, settings), None) or self._build(size, settings)
        boxes_B4 = np.array([image.box for image in images], np.int32)
        pipeline.feed_input("encoded", [np.frombuffer(image.data, np.uint8) for image in images])
        pipeline.feed_input("start", np.ascontiguousarray(boxes_B4[:, :2]))
        pipeline.feed_input("shape", np.ascontiguousarray(boxes_B4[:, 2:]))
        if self._device.type == "cuda":
            pipeline.feed_input("flip", np.array([image.flip for image in images], np.int32))
        (outputs,) = pipeline.run()
        self._pipelines[size, settings] = pipeline
        if self._device.type == "cuda":
            pixels_PHWC = torch.utils.dlpack.from_dlpack(outputs.as_tensor()).clone()
            torch.cuda.current_stream().synchronize()  # DALI reuses its memory once ``outputs`` is gone
            return list(pixels_PHWC.unbind())

        def finish(position: int) -> Tensor:
            return _resized(np.asarray(outputs[position]), images[position].flip, settings)

        return list(self._pool.map(finish, range(len(images))))

    def _build(self, size: int, settings: CropSettings) -> Pipeline:
        on_gpu = self._device.type == "cuda"
        pipeline = Pipeline(
            batch_size=size,
            num_threads=min(self._num_workers, MAX_GPU_THREADS) if on_gpu else self._num_workers,
            device_id=(self._device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,  # ``augmented`` prefetches; an error here must belong to its batch
        )
        with pipeline:
            pipeline.set_outputs(_graph(settings, on_gpu=on_gpu))
        pipeline.build()
        return pipeline


def _graph(settings: CropSettings, *, on_gpu: bool) -> Any:
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    crop = fn.decoders.image_slice(
        encoded,
        start=fn.external_source(name="start", dtype=types.INT32, ndim=1),
        shape=fn.external_source(name="shape", dtype=types.INT32, ndim=1),
        axes=(0, 1),
        device="mixed" if on_gpu else "cpu",
        **JPEG_OPTIONS,
    )
    if not on_gpu:
        return crop
    resized = fn.resize(
        crop,
        size=(settings.height, settings.width),
        interp_type=_INTERPOLATION[settings.interpolation],
        antialias=True,
    )
    return fn.flip(resized, horizontal=fn.external_source(name="flip", dtype=types.INT32, ndim=0))


def _read(images: ImageSet, draws: BatchDraws, position: int, settings: CropSettings) -> _Plain | str | None:
    """Read an image for DALI; give the reason if it cannot be read, None if it is of a kind that Pillow will read."""
    row = int(draws.rows_B[position])
    try:
        data = images.source.read(row)
    except OSError as error:
        return reason_of(error)
    if not isinstance(data, bytes) or (settings.exif_orientation and is_turned(data)):
        return None
    size = jpeg_png_size(data)
    if size is None or size.height * size.width > LARGEST_PIXELS:
        return None
    box = crop_box(size.height, size.width, draws.crops_BA4[position], scale=settings.scale, ratio=settings.ratio)
    return _Plain(position, data, box, bool(draws.flips_B[position]))


def _resized(crop_hwC: NDArray[np.uint8], flip: bool, settings: CropSettings) -> Tensor:
    crop_1Chw = torch.from_numpy(np.require(crop_hwC, requirements=["C", "W"])).permute(2, 0, 1).unsqueeze(0)
    resized_1CHW = torch.nn.functional.interpolate(
        crop_1Chw,
        size=(settings.height, settings.width),
        mode=settings.interpolation,
        align_corners=False,
        antialias=True,
    )
    pixels_HWC = resized_1CHW.squeeze(0).permute(1, 2, 0)
    return pixels_HWC.flip(1) if flip else pixels_HWC
