"""Augmenter: draws in, cropped, resized and flipped training pixels out. One file an augmenter, by name below."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.prefetch import ahead
from penultimate.engine.train.augment.draws import Draws
from penultimate.engine.train.recipe import Recipe
from penultimate.store.errors import DecodeError, UnavailableError, UnknownNameError

# Shapes: B images of a batch, H x W pixels of the network's input, C = 3 channels (RGB).


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What every crop of a run shares."""

    height: int
    width: int
    interpolation: str
    """``bicubic`` or ``bilinear``, always antialiased."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    exif_orientation: bool = False
    """As in Preprocess."""

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        """Those of a recipe."""
        return cls(
            height=recipe.preprocess.height,
            width=recipe.preprocess.width,
            interpolation=recipe.preprocess.interpolation,
            scale=recipe.crop_scale,
            ratio=recipe.crop_ratio,
            exif_orientation=recipe.preprocess.exif_orientation,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Augmented:
    """Pixels of one update."""

    step: int
    rows_B: list[int]
    """Row of the ImageSet that each image shows: the row drawn, or its stand-in where that could not be decoded."""

    images_BHWC: Tensor
    """uint8, on the augmenter's device, not yet normalised."""

    failed: Mapping[int, str]
    """Row -> reason, of images that could not be decoded."""


class Augmenter(Protocol):
    """Makes the pixels of one update; what comes out depends on the draws and the files alone."""

    @property
    def name(self) -> str:
        """As in ``Recipe.augmenter``."""

    def augment(self, images: ImageSet, draws: Draws, settings: Settings) -> Augmented:
        """Every image drawn, in order; one that cannot be decoded is stood in for by the nearest before it that can.

        Raises DecodeError if not one of the batch can be decoded.
        """


def make_augmenter(name: str, *, num_workers: int, device: torch.device) -> Augmenter:
    """The augmenter of that name; UnknownNameError, or UnavailableError where its library is not installed."""
    if name not in AUGMENTERS:
        raise UnknownNameError("augmenter", name, AUGMENTERS)
    return AUGMENTERS[name](num_workers, device)


def augmented(
    augmenter: Augmenter, images: ImageSet, draws: Iterable[Draws], settings: Settings, *, depth: int = 3
) -> Iterator[Augmented]:
    """Batches in order, the next ``depth`` - 1 made while one is trained on."""
    with ThreadPoolExecutor(1, thread_name_prefix="augment") as executor:
        yield from ahead(executor, partial(_augment, augmenter, images, settings), draws, depth=depth)


def _augment(augmenter: Augmenter, images: ImageSet, settings: Settings, draws: Draws) -> Augmented:
    return augmenter.augment(images, draws, settings)


class Cropped(NamedTuple):
    """One image on its way into a batch."""

    row: int
    outcome: Tensor | str
    """(H, W, C) uint8, or why there is none."""


def batch_of(step: int, cropped: Sequence[Cropped]) -> Augmented:
    """The batch of ``cropped`` images, stand-ins in the place of what failed. DecodeError if all failed."""
    failed = {image.row: image.outcome for image in cropped if isinstance(image.outcome, str)}
    good = [image for image in cropped if not isinstance(image.outcome, str)]
    if not good:
        row, reason = next(iter(failed.items()))
        raise DecodeError(
            f"not one of the {len(cropped)} images of update {step + 1} could be decoded; the first, row {row}: "
            f"{reason}"
        )
    stand_in = good[-1]  # before the first comes the last
    rows: list[int] = []
    pixels: list[Tensor] = []
    for image in cropped:
        stand_in = stand_in if isinstance(image.outcome, str) else image
        rows.append(stand_in.row)
        pixels.append(torch.as_tensor(stand_in.outcome))
    return Augmented(step=step, rows_B=rows, images_BHWC=torch.stack(pixels), failed=failed)


def _pillow(num_workers: int, device: torch.device) -> Augmenter:
    from penultimate.engine.train.augment.pillow import PillowAugmenter

    return PillowAugmenter(num_workers=num_workers)


def _dali(num_workers: int, device: torch.device) -> Augmenter:
    try:
        from penultimate.engine.train.augment.dali import DaliAugmenter
    except ImportError as error:
        raise UnavailableError(
            f"augmenter 'dali' needs the package nvidia-dali-cuda130 (Linux only): install it or choose "
            f"--decoder pillow ({error})"
        ) from error
    return DaliAugmenter(num_workers=num_workers, device=device)


AUGMENTERS: dict[str, Callable[[int, torch.device], Augmenter]] = {"dali": _dali, "pillow": _pillow}
"""Name -> constructor, from the number of worker threads and the device that trains."""
