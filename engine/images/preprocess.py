"""Preprocess: what happens between a decoded image and the network, as numbers with a digest."""

from dataclasses import asdict, dataclass
from typing import Literal

from penultimate.store.digest import digest_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """Resize, crop and normalisation of one backbone's input; resizing is always antialiased, as in Pillow."""

    height: int
    """Pixels of the network's input."""

    width: int
    """Pixels of the network's input."""

    resize: Literal["whole", "crop"]
    """``whole``: the whole image to (height, width), aspect ratio not kept (the paper). ``crop``: the shorter
    side to ``floor(input / crop_pct)``, aspect ratio kept, then the centre (timm's evaluation)."""

    crop_pct: float = 1.0
    """Share of the resized shorter side that the centre crop keeps, in (0, 1]; 1.0 for ``whole``."""

    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    mean: tuple[float, float, float]
    """Of pixels scaled to [0, 1], per RGB channel."""

    std: tuple[float, float, float]
    """Of pixels scaled to [0, 1], per RGB channel."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"input size must be positive, got {self.height} x {self.width}")
        if not 0.0 < self.crop_pct <= 1.0:
            raise ValueError(f"crop_pct must be in (0, 1], got {self.crop_pct}")
        if self.resize == "whole" and self.crop_pct != 1.0:
            raise ValueError(f"resize='whole' keeps the whole image, so crop_pct must be 1.0, got {self.crop_pct}")
        if not all(s > 0 for s in self.std):
            raise ValueError(f"std must be positive, got {self.std}")

    @property
    def digest(self) -> str:
        """16 hex digits."""
        return digest_of(asdict(self))

    @property
    def pixels(self) -> "Preprocess":
        """The same view before normalisation: backbones that differ only in mean and std share its pixels."""
        return Preprocess(
            height=self.height,
            width=self.width,
            resize=self.resize,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )
