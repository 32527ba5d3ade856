"""GpuPipeline is DALI's graph from encoded plain files to resized, cropped views, on a GPU or, in tests, on the CPU."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
import torch.utils.dlpack
from numpy.typing import NDArray
from nvidia.dali import Pipeline
from torch import Tensor

from penultimate.engine.images.decode.dali_runs import MAX_GPU_THREADS
from penultimate.engine.images.preprocess import CropGeometry, Preprocess

# Shapes: B images of a run, h x w of a view.

JPEG_OPTIONS: dict[str, Any] = {
    "output_type": types.RGB,
    "adjust_orientation": False,
    "jpeg_fancy_upsampling": True,  # chroma as libjpeg-turbo, and so Pillow, makes it
    "hw_decoder_load": 1.0,
}
"""Options of every decoder of DALI whose pixels end on a GPU, here and in training.

The hardware JPEG engine (A100, H100) and the CUDA decoder differ slightly. ``hw_decoder_load`` is the fraction of a
run's images that the engine is given. Between 0 and 1 nvImageCodec decides which ones those are by the other images of
the run, so that an image's pixels would depend on its neighbours; at 1.0 the engine is given all that it can decode,
which depends on the file alone. What that costs is not measured: DALI's documentation gives 0.65 to 0.9 as fastest. On
a GPU without the engine it changes nothing.
"""

_INTERPOLATION = {"bicubic": types.DALIInterpType.INTERP_CUBIC, "bilinear": types.DALIInterpType.INTERP_LINEAR}
"""Name of an interpolation -> DALI's filter.

With ``antialias=True`` DALI widens these by the scale as Pillow does: Keys' cubic, a = -0.5, and the triangle."""


class Encoded(NamedTuple):
    """One plain file for DALI."""

    row: int
    """Row of the image in its ImageSet."""

    content: bytes
    num_pixels: int
    """Number of pixels of the image as stored."""

    crops: tuple[CropGeometry, ...]
    """Size and crop for each view."""


class GpuPipeline:
    """A DALI pipeline from encoded plain files to one uint8 tensor (B, h, w, 3) a view, rebuilt after a failed run."""

    def __init__(self, views: Sequence[Preprocess], *, batch_size: int, num_threads: int, device: torch.device) -> None:
        """Build nothing yet; a run is of at most ``batch_size`` files."""
        self._views = views
        self._batch_size = batch_size
        self._num_threads = min(num_threads, MAX_GPU_THREADS)
        self._device = device
        self._pipeline: Pipeline | None = None
        self._fed: list[NDArray[np.uint8]] = []

    def run(self, files: Sequence[Encoded]) -> tuple[Tensor, ...]:
        """Decode the files and return a tensor a view, on the device; raise RuntimeError as DALI does.

        The tensors are DALI's memory, which lives as long as they do.
        """
        pipeline = self._pipeline or self._build()
        self._pipeline = None  # "Current pipeline object is no longer valid" if it raises
        # DALI reads where they lie and copies nothing, so they must live until the next run.
        self._fed = [np.frombuffer(file.content, np.uint8) for file in files]
        pipeline.feed_input("encoded", self._fed)
        for number, view in enumerate(self._views):
            if view.resize == "crop":
                crops_B4 = np.array([file.crops[number] for file in files], np.int32)
                pipeline.feed_input(f"size{number}", crops_B4[:, :2].astype(np.float32))
                pipeline.feed_input(f"start{number}", np.ascontiguousarray(crops_B4[:, 2:]))
        outputs = pipeline.run()  # without a stream: returns when the pixels are there
        self._pipeline = pipeline
        return tuple(torch.utils.dlpack.from_dlpack(output.as_tensor()) for output in outputs)

    def _build(self) -> Pipeline:
        on_gpu = self._device.type == "cuda"
        pipeline = Pipeline(
            batch_size=self._batch_size,
            num_threads=self._num_threads,
            device_id=(self._device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,
            exec_dynamic=True,  # outputs are counted references: pixels outlive the next run without a copy
        )
        with pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
            pipeline.set_outputs(*views_of_files(encoded, self._views, device="mixed" if on_gpu else "cpu"))
        pipeline.build()
        return pipeline


def views_of_files(encoded: Any, views: Sequence[Preprocess], *, device: str) -> list[Any]:
    """Return the nodes of DALI's graph that hold the views of ``encoded``, decoded on ``device`` (cpu or mixed)."""
    pixels = fn.decoders.image(encoded, device=device, **JPEG_OPTIONS)
    return [_resized_crop(pixels, number, view) for number, view in enumerate(views)]


def _resized_crop(pixels: Any, number: int, view: Preprocess) -> Any:
    """Resize whole images and crop them, by the sizes and corners that are fed to the inputs of view ``number``."""
    resize: dict[str, Any] = {"interp_type": _INTERPOLATION[view.interpolation], "antialias": True}
    if view.resize == "whole":
        return fn.resize(pixels, size=(view.height, view.width), **resize)
    size = fn.external_source(name=f"size{number}", dtype=types.FLOAT, ndim=1)
    start = fn.external_source(name=f"start{number}", dtype=types.INT32, ndim=1)
    # Corner and size as named arguments stay on the host; as inputs they are copied to the GPU and waited for.
    return fn.slice(fn.resize(pixels, size=size, **resize), start=start, shape=(view.height, view.width), axes=(0, 1))
