"""Augmenter: makes the training pixels of one update from random numbers that are drawn beforehand."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.engine.train.augment.draws import BatchDraws
from penultimate.engine.train.recipe import Recipe
from penultimate.store.errors import DecodeError

# Shapes: B images of a batch, H x W pixels of the network's input, C = 3 channels (RGB).


@dataclass(frozen=True, kw_only=True, slots=True)
class CropSettings:
    """Settings that all crops of a run have in common."""

    height: int
    """Pixels of the network's input."""

    width: int
    """Pixels of the network's input."""

    interpolation: str
    """``bicubic`` or ``bilinear``, always antialiased."""

    scale: tuple[float, float]
    """Least and greatest fraction of the image's area that a crop covers."""

    ratio: tuple[float, float]
    """Least and greatest width / height of a crop."""

    exif_orientation: bool = False
    """As in Preprocess."""

    @classmethod
    def of(cls, recipe: Recipe) -> "CropSettings":
        """Take the settings of crops from a recipe."""
        return cls(
            height=recipe.preprocess.height,
            width=recipe.preprocess.width,
            interpolation=recipe.preprocess.interpolation,
            scale=recipe.crop_scale,
            ratio=recipe.crop_ratio,
            exif_orientation=recipe.preprocess.exif_orientation,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AugmentedBatch:
    """Pixels of one update, on the device of the augmenter."""

    step: int
    rows_B: list[int]
    """Row of the ImageSet that each image shows: the one drawn, or its stand-in where that could not be decoded."""

    images_BHWC: Tensor
    """uint8 RGB, not yet normalised."""

    failed: Mapping[int, str]
    """Row -> reason, for images that could not be decoded."""


class Augmenter(Protocol):
    """Makes the pixels of one update. They depend on the draws and the files alone."""

    @property
    def name(self) -> str:
        """The name that ``Recipe.augmenter`` holds."""

    def augment(self, images: ImageSet, draws: BatchDraws, settings: CropSettings) -> AugmentedBatch:
        """Crop, resize and flip every image drawn, in order.

        The nearest image before it stands in for one that cannot be decoded. Raises DecodeError if no image of the
        batch can be decoded.
        """


def augmented(
    augmenter: Augmenter, images: ImageSet, draws: Iterable[BatchDraws], settings: CropSettings, *, depth: int = 3
) -> Iterator[AugmentedBatch]:
    """Yield batches in order, and make the next ``depth`` - 1 of them while one is trained on."""
    with ThreadPoolExecutor(1, thread_name_prefix="augment") as executor:
        yield from prefetch_map(executor, partial(_augment, augmenter, images, settings), draws, depth=depth)


def _augment(augmenter: Augmenter, images: ImageSet, settings: CropSettings, draws: BatchDraws) -> AugmentedBatch:
    return augmenter.augment(images, draws, settings)


class Cropped(NamedTuple):
    """One image before it joins its batch: pixels, or the reason why there are none."""

    row: int
    result: Tensor | str
    """(H, W, C) uint8, or the reason."""


def batch_of(step: int, cropped: Sequence[Cropped]) -> AugmentedBatch:
    """Stack images into a batch, with stand-ins for those that failed. Raises DecodeError if all of them failed."""
    failed = {image.row: image.result for image in cropped if isinstance(image.result, str)}
    good = [image for image in cropped if not isinstance(image.result, str)]
    if not good:
        row, reason = next(iter(failed.items()))
        raise DecodeError(
            f"none of the {len(cropped)} images of update {step + 1} could be decoded; the first, row {row}: {reason}"
        )
    stand_in = good[-1]  # before the first comes the last
    rows: list[int] = []
    pixels: list[Tensor] = []
    for image in cropped:
        stand_in = stand_in if isinstance(image.result, str) else image
        rows.append(stand_in.row)
        pixels.append(torch.as_tensor(stand_in.result))
    return AugmentedBatch(step=step, rows_B=rows, images_BHWC=torch.stack(pixels), failed=failed)
