"""Preprocess describes, as numbers with a digest, what happens between a decoded image and the network."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from penultimate.store.format.digest import digest_of


class CropGeometry(NamedTuple):
    """Size of one resized image and corner of the crop that the network is given, all in pixels."""

    height: int
    """Height of the whole resized image, before cropping."""

    width: int
    """Width of the whole resized image, before cropping."""

    top: int
    """Row of the resized image at which the crop begins."""

    left: int
    """Column of the resized image at which the crop begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """The resize, crop and normalisation of one backbone's input. Resizing is always antialiased, as in Pillow."""

    height: int
    """Height of the network's input in pixels."""

    width: int
    """Width of the network's input in pixels."""

    resize: Literal["whole", "crop"]
    """Kind of resize. ``whole``: the whole image to (height, width), aspect ratio not kept (the paper). ``crop``: the
    shorter side to ``floor(input / crop_pct)``, aspect ratio kept, then the centre (timm's evaluation,
    ``crop_mode="center"``).
    """

    crop_pct: float = 1.0
    """Fraction of the resized shorter side that the centre crop keeps, in (0, 1]; 1.0 for ``whole``."""

    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    mean: tuple[float, float, float]
    """Mean of each RGB channel that is subtracted from pixels scaled to [0, 1]."""

    std: tuple[float, float, float]
    """Standard deviation of each RGB channel that pixels scaled to [0, 1] are divided by."""

    exif_orientation: bool = False
    """True if an image is first rotated as its EXIF orientation says. False, as in torchvision and timm: pixels are
    taken as they are stored, so that a photograph of a phone held upright may lie on its side. HEIC images are upright
    either way: their container's own rotation is part of decoding (ISO/IEC 23008-12, 6.5.10), and they need no EXIF."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"input size must be positive, got {self.height} x {self.width}")
        if not 0.0 < self.crop_pct <= 1.0:
            raise ValueError(f"crop_pct must be in (0, 1], got {self.crop_pct}")
        if self.resize == "whole" and self.crop_pct != 1.0:
            raise ValueError(f"resize='whole' keeps the whole image, so crop_pct must be 1.0, got {self.crop_pct}")
        if not all(s > 0 for s in self.std):
            raise ValueError(f"std must be positive, got {self.std}")

    def crop_geometry(self, height: int, width: int) -> CropGeometry:
        """Return the size to which an image of ``height`` x ``width`` is resized, and the corner of its crop.

        The roundings are those of timm's ``transforms_imagenet_eval`` and, in it, torchvision's ``Resize`` (longer
        side rounded down), timm's ``ResizeKeepRatio`` (inputs that are not square; half to even) and torchvision's
        ``CenterCrop`` (half to even).
        """
        if self.resize == "whole":
            return CropGeometry(self.height, self.width, 0, 0)
        target_height, target_width = math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)
        if target_height != target_width:
            ratio = min(height / target_height, width / target_width)
            resized_height, resized_width = round(height / ratio), round(width / ratio)
        elif width <= height:
            resized_height, resized_width = int(target_width * height / width), target_width
        else:
            resized_height, resized_width = target_height, int(target_height * width / height)
        top, left = round((resized_height - self.height) / 2), round((resized_width - self.width) / 2)
        return CropGeometry(resized_height, resized_width, top, left)

    @property
    def digest(self) -> str:
        """Digest of all fields, 16 hex digits."""
        return digest_of(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return all fields for JSON, without ``exif_orientation`` where it is False: older digests lack it."""
        values = asdict(self)
        if not self.exif_orientation:
            del values["exif_orientation"]
        return values

    @property
    def pixels(self) -> "Preprocess":
        """The same resize and crop without normalisation, shared by backbones that differ only in mean and std."""
        return replace(self, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
