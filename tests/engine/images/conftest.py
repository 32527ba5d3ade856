import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Photo = Callable[..., Image.Image]
Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def photo() -> Photo:
    """Make photograph-like images by seed: smooth shapes with saturated areas, and fine grain on top."""

    def make(seed: int, height: int = 120, width: int = 160) -> Image.Image:
        rng = np.random.default_rng(seed)
        shapes = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        pixels = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), np.float64)
        grain = rng.normal(0.0, 4.0, pixels.shape)
        return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Encode an image to the bytes of a file."""

    def to_bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return to_bytes


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real images: PENULTIMATE_DATA, by default ../shared/data beside the repository."""
    default = Path(__file__).parents[3] / ".." / "shared" / "data"
    folder = Path(os.environ.get("PENULTIMATE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
