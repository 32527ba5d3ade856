from dataclasses import replace
from typing import Any

import pytest

from penultimate.engine.images.preprocess import CropGeometry, Preprocess

HALF = (0.5, 0.5, 0.5)
PAPER = Preprocess(height=224, width=224, resize="whole", mean=HALF, std=HALF)
TIMM = replace(PAPER, resize="crop", crop_pct=0.875)


@pytest.mark.parametrize(
    ("view", "height", "width", "crop_geometry"),
    [
        (PAPER, 375, 500, CropGeometry(224, 224, 0, 0)),
        (TIMM, 375, 500, CropGeometry(256, 341, 16, 58)),  # 341.33 down; (341 - 224) / 2 = 58.5 to even
        (TIMM, 500, 375, CropGeometry(341, 256, 58, 16)),
        (TIMM, 1, 1, CropGeometry(256, 256, 16, 16)),
        (replace(TIMM, width=192), 300, 300, CropGeometry(256, 256, 16, 32)),
    ],
)
def test_crop_geometry_follows_the_roundings_of_timm_and_torchvision(
    view: Preprocess, height: int, width: int, crop_geometry: CropGeometry
) -> None:
    assert view.crop_geometry(height, width) == crop_geometry


@pytest.mark.parametrize("crop_pct", [0.1, 0.5, 0.875, 0.95, 1.0])
@pytest.mark.parametrize("size", [(224, 224), (224, 192), (1, 7)])
def test_the_crop_lies_inside_the_resized_image(crop_pct: float, size: tuple[int, int]) -> None:
    view = replace(TIMM, crop_pct=crop_pct, height=size[0], width=size[1])
    for height in (*range(1, 40), 1_001):
        for width in (*range(1, 40), 20_000):
            crop = view.crop_geometry(height, width)
            assert 0 <= crop.top <= crop.height - view.height
            assert 0 <= crop.left <= crop.width - view.width


def test_the_digest_changes_with_every_field_and_pixels_forget_the_normalisation() -> None:
    changes: list[dict[str, Any]] = [
        {"height": 225},
        {"width": 225},
        {"resize": "whole", "crop_pct": 1.0},
        {"crop_pct": 0.9},
        {"interpolation": "bilinear"},
        {"mean": (0.5, 0.5, 0.4)},
        {"std": (0.5, 0.5, 0.4)},
    ]
    others = [replace(TIMM, **change) for change in changes]
    assert len({TIMM.digest, *(other.digest for other in others)}) == 1 + len(changes)
    same_pixels = [other for other in others if other.pixels == TIMM.pixels]
    assert same_pixels == others[-2:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "input size"),
        ({"crop_pct": 1.5}, "crop_pct must be in"),
        ({"crop_pct": float("nan")}, "crop_pct must be in"),
        ({"resize": "whole"}, "keeps the whole image"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
    ],
)
def test_a_preprocess_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TIMM, **change)
