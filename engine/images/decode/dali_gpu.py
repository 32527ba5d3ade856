"""DaliGpuDecoder decodes and resizes with DALI on the GPU, and the pixels stay there."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from penultimate.engine.images.decode.dali_gpu_pipeline import Encoded, GpuPipeline
from penultimate.engine.images.decode.dali_runs import (
    DecodeCounts,
    IdlePipelines,
    refuse_if_dali_is_broken,
    run_or_halve,
    runs_within,
)
from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.file_header import Size
from penultimate.engine.images.decode.pillow import STRIP_PIXELS, reason_of, resize_with_pillow, views_of
from penultimate.engine.images.decode.samples import GROUP, Sample, groups_of, read_samples
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import CropGeometry, Preprocess
from penultimate.engine.runtime.prefetch import prefetch_map

# Shapes: H x W pixels of an image as stored, h x w of a view, B images of a batch.

_AHEAD = 192
"""Largest number of images that are read ahead where that is more than two batches, to keep all threads busy."""

_LARGEST_SCALE = 8.0
"""Largest factor by which DALI enlarges a side. Beyond it, as in a strip two pixels high, Pillow resizes: DALI's pixels
were up to 10 of 255 off there."""


class _Read(NamedTuple):
    """One sample that was read, with Pillow's pixels where DALI is not to decode it."""

    row: int
    content: Encoded | list[NDArray[np.uint8]] | str
    """Plain file for DALI, one array a view, or the reason why there is neither."""


class DaliGpuDecoder(Decoder):
    """Decode with DALI's mixed decoder and resize with DALI, both on the GPU; batches are torch tensors there.

    A file that is not plain (``file_header.jpeg_png_size``), is very large or is to be enlarged much, and one that DALI
    cannot decode, is decoded and resized by Pillow and copied to the GPU; ``counts`` tells how many images each library
    decoded. What else DALI raises, such as that the GPU's memory is full, is raised. Resizing differs from Pillow's in
    that intermediate rows are not rounded to bytes: 0.16 of 255 on average (the graph on the CPU, 125 ImageNet
    photographs), so the decoder's name, and with it the key of the features, is another than ``dali``.

    ``device="cpu"`` runs the same graph on the CPU, as the tests do where there is no GPU. At most two batches, or
    192 images, are being read, one batch is decoded and one is with the caller; DALI decodes at most ``RUN_PIXELS`` at
    once. The pipeline is kept for the next call with the same views and batch size.
    """

    name = "dali-gpu"

    def __init__(self, *, num_workers: int = 1, device: str = "cuda") -> None:
        """Use ``num_workers`` threads to read files, parse their headers and run Pillow."""
        self.num_workers = num_workers
        self.counts = DecodeCounts()
        self._device = torch.device(device)
        self._pipelines = IdlePipelines[GpuPipeline]()
        if self._device.type == "cuda" and self._device.index is None:  # its threads would all see GPU 0
            self._device = torch.device("cuda", torch.cuda.current_device())

    @override
    def batches(
        self, images: ImageSet, indices: Iterable[int], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:
        upright = any(view.exif_orientation for view in views)
        crops_of = lru_cache(maxsize=4096)(partial(_crops_of, views))  # images of a set share a few sizes

        def read(group: Sequence[int]) -> list[_Read]:
            samples = read_samples(images.source, group, upright=upright)
            return [self._prepared(sample, views, crops_of) for sample in samples]

        def decode(batch: list[_Read]) -> DecodedBatch:
            return self._decode(pipeline, batch, views)

        def build() -> GpuPipeline:
            return GpuPipeline(views, batch_size=batch_size, num_threads=self.num_workers, device=self._device)

        group_size = min(batch_size, GROUP)
        depth = max(-(-2 * batch_size // group_size), min(2 * self.num_workers, _AHEAD // group_size))
        with (
            self._pipelines.borrowed((tuple(views), batch_size), build) as pipeline,
            ThreadPoolExecutor(self.num_workers, thread_name_prefix="dali-host") as pool,
            ThreadPoolExecutor(1, thread_name_prefix="dali-gpu") as runner,
        ):
            groups = prefetch_map(pool, read, groups_of(indices, batch_size=batch_size), depth=depth)
            samples = chain.from_iterable(groups)
            batches = iter(lambda: list(islice(samples, batch_size)), [])
            yield from prefetch_map(runner, decode, batches, depth=2)

    def _prepared(
        self, sample: Sample, views: Sequence[Preprocess], crops_of: Callable[[Size], tuple[CropGeometry, ...] | None]
    ) -> _Read:
        row, content, plain = sample
        if isinstance(content, str):
            return _Read(row, content)
        crops = plain and crops_of(plain)
        if plain and crops and isinstance(content, bytes):
            return _Read(row, Encoded(row, content, plain.height * plain.width, crops))
        return self._with_pillow(row, content, views)

    def _with_pillow(self, row: int, content: bytes | NDArray[np.uint8], views: Sequence[Preprocess]) -> _Read:
        self.counts.add(pillow=isinstance(content, bytes))
        try:
            return _Read(row, [np.array(view) for view in views_of(content, views, resize_with_pillow)])
        except Exception as error:  # as in PillowDecoder: each becomes this row's reason
            return _Read(row, reason_of(error))

    def _decode(self, pipeline: GpuPipeline, samples: list[_Read], views: Sequence[Preprocess]) -> DecodedBatch:
        """Decode a batch in one run, or in several where it has many pixels or a file that DALI cannot decode."""
        encoded = [each.content for each in samples if isinstance(each.content, Encoded)]
        parts: list[tuple[Sequence[Encoded], tuple[Tensor, ...]]] = []
        by_pillow: dict[int, _Read] = {}
        for run in runs_within(encoded, lambda file: file.num_pixels):
            for files, pixels in run_or_halve(pipeline.run, run, self.counts):
                if pixels is not None:
                    parts.append((files, pixels))
                else:
                    by_pillow |= {f.row: self._with_pillow(f.row, f.content, views) for f in files}
        refuse_if_dali_is_broken(
            num_run=len(encoded),
            num_by_dali=sum(len(files) for files, _ in parts),
            num_by_pillow=sum(not isinstance(each.content, str) for each in by_pillow.values()),
        )
        read = [by_pillow.get(each.row, each) for each in samples]
        kept = [each for each in read if not isinstance(each.content, str)]
        whole = len(parts) == 1 and len(parts[0][0]) == len(kept)
        return DecodedBatch(
            indices_B=np.array([each.row for each in kept], np.int64),
            views=parts[0][1] if whole else self._merged(kept, parts, views),
            failed={each.row: each.content for each in read if isinstance(each.content, str)},
        )

    def _merged(
        self,
        kept: Sequence[_Read],
        parts: Sequence[tuple[Sequence[Encoded], tuple[Tensor, ...]]],
        views: Sequence[Preprocess],
    ) -> tuple[Tensor, ...]:
        """Merge the views of DALI's runs and Pillow's into one tensor a view, in the order of ``kept``."""
        position_of = {each.row: position for position, each in enumerate(kept)}
        pillow = [(each.row, each.content) for each in kept if isinstance(each.content, list)]
        merged = tuple(
            torch.empty((len(kept), view.height, view.width, 3), dtype=torch.uint8, device=self._device)
            for view in views
        )
        for number, view_BHWC in enumerate(merged):
            for files, decoded in parts:
                self._fill(view_BHWC, [position_of[file.row] for file in files], decoded[number])
            if pillow:
                stacked = np.stack([pixels[number] for _, pixels in pillow])
                self._fill(view_BHWC, [position_of[index] for index, _ in pillow], torch.from_numpy(stacked))
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # the networks read it on streams of their own
        return merged

    def _fill(self, view_BHWC: Tensor, positions: list[int], pixels: Tensor) -> None:
        view_BHWC[torch.tensor(positions, dtype=torch.int64, device=self._device)] = pixels.to(self._device)


def _crops_of(views: Sequence[Preprocess], size: Size) -> tuple[CropGeometry, ...] | None:
    """Return size and crop for each view of an image that DALI resizes as Pillow does, and None for any other.

    It does not where a side is much enlarged: the filter overshoots, and Pillow clips between its passes.
    """
    crops = tuple(view.crop_geometry(*size) for view in views)
    for crop in crops:
        enlarged = max(crop.height / size.height, crop.width / size.width)
        if crop.height * crop.width > STRIP_PIXELS or enlarged > _LARGEST_SCALE:
            return None
    return crops
