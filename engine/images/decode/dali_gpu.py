"""DaliGpuDecoder decodes and resizes with DALI on the GPU, and the pixels stay there."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
import torch.utils.dlpack
from numpy.typing import NDArray
from nvidia.dali import Pipeline
from torch import Tensor
from typing_extensions import override

from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.file_header import Size, jpeg_png_size
from penultimate.engine.images.decode.pillow import STRIP_PIXELS, is_turned, reason_of, resize_with_pillow, views_of
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import CropGeometry, Preprocess
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.store.errors import PenultimateError

# Shapes: H x W pixels of an image as stored, h x w of a view, B images of a batch.

_INTERPOLATION = {"bicubic": types.DALIInterpType.INTERP_CUBIC, "bilinear": types.DALIInterpType.INTERP_LINEAR}
"""Name of an interpolation -> DALI's filter.

With ``antialias=True`` DALI widens these by the scale as Pillow does: Keys' cubic, a = -0.5, and the triangle."""

_HARDWARE_FRACTION = 0.9
"""Fraction of the images that go to the hardware JPEG engine where the GPU has one (A100, H100). DALI's documentation
gives 65 to 90 per cent as best, the rest keeping the CUDA decoder busy. Not measured here."""


_LARGEST_SCALE = 8.0
"""Largest factor by which DALI enlarges a side. Beyond it, as in a strip two pixels high, Pillow resizes: DALI's pixels
were up to 10 of 255 off there."""


class DaliGpuDecoder(Decoder):
    """Decode with DALI's mixed decoder and resize with DALI, both on the GPU; batches are torch tensors there.

    A file that is not plain (``file_header.jpeg_png_size``), and every image of a batch that DALI refuses, is decoded
    and resized by Pillow and copied to the GPU. Resizing differs from Pillow's in that intermediate rows are not
    rounded to bytes: 0.16 of 255 on average (the graph on the CPU, 125 ImageNet photographs), so the decoder's name,
    and with it the key of the features, is another than ``dali``.

    ``device="cpu"`` runs the same graph on the CPU, as the tests do where there is no GPU. At most two batches are
    being read, one is decoded and one is with the caller.
    """

    name = "dali-gpu"

    def __init__(self, *, num_workers: int = 1, device: str = "cuda") -> None:
        """Use ``num_workers`` threads to read files, parse their headers and run Pillow."""
        self.num_workers = num_workers
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:  # its threads would all see GPU 0
            self._device = torch.device("cuda", torch.cuda.current_device())

    @override
    def batches(
        self, images: ImageSet, indices: Iterable[int], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:
        pipeline = _Pipeline(views, batch_size=batch_size, num_threads=self.num_workers, device=self._device)

        def decode(rows: list["_Read"]) -> DecodedBatch:
            return self._decode(pipeline, rows, views)

        with (
            ThreadPoolExecutor(self.num_workers, thread_name_prefix="dali-host") as pool,
            ThreadPoolExecutor(1, thread_name_prefix="dali-gpu") as runner,
        ):
            rows = map(int, indices)
            read = prefetch_map(pool, lambda row: _read(images, row, views), rows, depth=2 * batch_size)
            groups = iter(lambda: list(islice(read, batch_size)), [])
            yield from prefetch_map(runner, decode, groups, depth=2)

    def _decode(self, pipeline: "_Pipeline", rows: list["_Read"], views: Sequence[Preprocess]) -> DecodedBatch:
        plain = [row for row in rows if isinstance(row.content, bytes)]
        decoded = pipeline.run([row.content for row in plain if isinstance(row.content, bytes)])
        if decoded is None:  # one of them is damaged; Pillow tells which, and why
            rows = [_with_pillow(row, views) if isinstance(row.content, bytes) else row for row in rows]
            plain, decoded = [], tuple(self._empty(view) for view in views)
        kept = [row for row in rows if not isinstance(row.content, str)]
        return DecodedBatch(
            indices_B=np.array([row.index for row in kept], np.int64),
            views=tuple(
                pixels if len(plain) == len(kept) else self._merged(kept, pixels, position)
                for position, pixels in enumerate(decoded)
            ),
            failed={row.index: row.content for row in rows if isinstance(row.content, str)},
        )

    def _empty(self, view: Preprocess) -> Tensor:
        return torch.empty((0, view.height, view.width, 3), dtype=torch.uint8, device=self._device)

    def _merged(self, kept: Sequence["_Read"], decoded_PHWC: Tensor, position: int) -> Tensor:
        """Merge rows in their order: DALI's where ``content`` is still encoded, Pillow's where it is pixels."""
        merged = decoded_PHWC.new_empty((len(kept), *decoded_PHWC.shape[1:]))
        plain = [index for index, row in enumerate(kept) if isinstance(row.content, bytes)]
        merged[torch.tensor(plain, dtype=torch.int64, device=self._device)] = decoded_PHWC
        for index, row in enumerate(kept):
            if isinstance(row.content, tuple):
                merged[index] = torch.from_numpy(row.content[position])
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # the networks read it on streams of their own
        return merged


class _Read:
    """One sample that was read: an encoded plain file, one array a view, or the reason why there is neither."""

    __slots__ = ("content", "index")

    def __init__(self, index: int, content: bytes | tuple[NDArray[np.uint8], ...] | str) -> None:
        self.index = index
        self.content = content


def _read(images: ImageSet, index: int, views: Sequence[Preprocess]) -> _Read:
    try:
        content = images.source.read(index)
    except PenultimateError:  # not this image's fault: the run stops
        raise
    except OSError as error:
        return _Read(index, reason_of(error))
    if isinstance(content, bytes):
        turned = any(view.exif_orientation for view in views) and is_turned(content)
        size = None if turned else jpeg_png_size(content)
        if size and all(_fits(size, view.crop_geometry(size.height, size.width)) for view in views):
            return _Read(index, content)
    return _with_pillow(_Read(index, content if isinstance(content, bytes) else (content,)), views)


def _fits(size: Size, crop: CropGeometry) -> bool:
    """Return whether DALI resizes the image as Pillow does.

    It does not where a side is much enlarged: the filter overshoots, and Pillow clips between its passes.
    """
    enlarged = max(crop.height / size.height, crop.width / size.width)
    return crop.height * crop.width <= STRIP_PIXELS and enlarged <= _LARGEST_SCALE


def _with_pillow(row: _Read, views: Sequence[Preprocess]) -> _Read:
    content = row.content if isinstance(row.content, bytes) else np.asarray(row.content[0])
    try:
        return _Read(row.index, tuple(np.array(view) for view in views_of(content, views, resize_with_pillow)))
    except Exception as error:  # as in PillowDecoder: each becomes this row's reason
        return _Read(row.index, reason_of(error))


class _Pipeline:
    """A DALI pipeline from encoded plain files to one uint8 tensor (B, h, w, 3) a view, rebuilt after a failed run."""

    def __init__(self, views: Sequence[Preprocess], *, batch_size: int, num_threads: int, device: torch.device) -> None:
        self._views = views
        self._batch_size = batch_size
        self._num_threads = num_threads
        self._device = device
        self._pipeline: Pipeline | None = None

    def run(self, encoded: Sequence[bytes]) -> tuple[Tensor, ...] | None:
        """Decode the files and return a tensor a view, on the device; return None if one file cannot be decoded.

        The tensors are DALI's memory, which lives as long as they do.
        """
        if not encoded:
            shapes = [(0, view.height, view.width, 3) for view in self._views]
            return tuple(torch.empty(shape, dtype=torch.uint8, device=self._device) for shape in shapes)
        if self._pipeline is None:
            self._pipeline = self._build()
        self._pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8) for data in encoded])
        sizes = [size for data in encoded if (size := jpeg_png_size(data))]
        for number, view in enumerate(self._views):
            crops = [view.crop_geometry(*size) for size in sizes]
            self._pipeline.feed_input(f"size{number}", [np.array(p[:2], np.float32) for p in crops])
            self._pipeline.feed_input(f"start{number}", [np.array(p[2:], np.int32) for p in crops])
        try:
            outputs = self._pipeline.run()  # without a stream: returns when the pixels are there
        except RuntimeError:
            self._pipeline = None
            return None
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
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            pixels = fn.decoders.image(
                encoded,
                device="mixed" if on_gpu else "cpu",
                output_type=types.RGB,
                adjust_orientation=False,
                jpeg_fancy_upsampling=True,  # chroma as libjpeg-turbo, and so Pillow, makes it
                hw_decoder_load=_HARDWARE_FRACTION,
            )
            pipeline.set_outputs(*(_resized_crop(pixels, number, view) for number, view in enumerate(self._views)))
        pipeline.build()
        return pipeline


def _resized_crop(pixels: object, number: int, view: Preprocess) -> object:
    """Resize whole images and crop them, by the sizes and corners that are fed to the inputs of view ``number``."""
    size = fn.external_source(name=f"size{number}", dtype=types.FLOAT, ndim=1)
    start = fn.external_source(name=f"start{number}", dtype=types.INT32, ndim=1)
    resized = fn.resize(pixels, size=size, interp_type=_INTERPOLATION[view.interpolation], antialias=True)
    return fn.slice(resized, start, [view.height, view.width], axes=(0, 1))
