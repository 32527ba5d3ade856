"""Preprocess: what happens between a decoded image and the network, as numbers with a digest."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from penultimate.store.format.digest import digest_of


class Placement(NamedTuple):
    """Where the network's input lies in one resized image, all in pixels."""

    height: int
    """Of the whole resized image, before cropping."""

    width: int
    """Of the whole resized image, before cropping."""

    top: int
    left: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """Resize, crop and normalisation of one backbone's input; resizing is always antialiased, as in Pillow."""

    height: int
    """Pixels of the network's input."""

    width: int
    """Pixels of the network's input."""

    resize: Literal["whole", "crop"]
    """``whole``: the whole image to (height, width), aspect ratio not kept (the paper). ``crop``: the shorter
    side to ``floor(input / crop_pct)``, aspect ratio kept, then the centre (timm's evaluation, ``crop_mode="center"``).
    """

    crop_pct: float = 1.0
    """Share of the resized shorter side that the centre crop keeps, in (0, 1]; 1.0 for ``whole``."""

    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    mean: tuple[float, float, float]
    """Of pixels scaled to [0, 1], per RGB channel."""

    std: tuple[float, float, float]
    """Of pixels scaled to [0, 1], per RGB channel."""

    exif_orientation: bool = False
    """Whether an image is first turned as its EXIF orientation says. False, as in torchvision and timm: pixels are
    taken as they are stored, so that a photograph of a phone held upright may lie on its side."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"input size must be positive, got {self.height} x {self.width}")
        if not 0.0 < self.crop_pct <= 1.0:
            raise ValueError(f"crop_pct must be in (0, 1], got {self.crop_pct}")
        if self.resize == "whole" and self.crop_pct != 1.0:
            raise ValueError(f"resize='whole' keeps the whole image, so crop_pct must be 1.0, got {self.crop_pct}")
        if not all(s > 0 for s in self.std):
            raise ValueError(f"std must be positive, got {self.std}")

    def placement(self, height: int, width: int) -> Placement:
        """How an image of ``height`` x ``width`` is resized and where it is then cropped.

        The roundings are those of timm's ``transforms_imagenet_eval`` and, in it, torchvision's ``Resize`` (longer
        side rounded down), timm's ``ResizeKeepRatio`` (inputs that are not square; half to even) and torchvision's
        ``CenterCrop`` (half to even).
        """
        if self.resize == "whole":
            return Placement(self.height, self.width, 0, 0)
        target_height, target_width = math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)
        if target_height != target_width:
            ratio = min(height / target_height, width / target_width)
            resized_height, resized_width = round(height / ratio), round(width / ratio)
        elif width <= height:
            resized_height, resized_width = int(target_width * height / width), target_width
        else:
            resized_height, resized_width = target_height, int(target_height * width / height)
        top, left = round((resized_height - self.height) / 2), round((resized_width - self.width) / 2)
        return Placement(resized_height, resized_width, top, left)

    @property
    def digest(self) -> str:
        """16 hex digits."""
        return digest_of(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """JSON-able. ``exif_orientation`` is left out where it is False: digests were stored before it came."""
        values = asdict(self)
        if not self.exif_orientation:
            del values["exif_orientation"]
        return values

    @property
    def pixels(self) -> "Preprocess":
        """The same view before normalisation: backbones that differ only in mean and std share its pixels."""
        return replace(self, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
