"""What tests share: a folder of small photographs-to-be, and where the real data lies."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if find_spec("obstore") and find_spec("moto"):
    from support.s3_fixtures import proxy, server  # noqa: F401 (fixtures for every folder of tests)

CLASSES = ("cat", "dog", "owl")
IMAGES_PER_CLASS = 8


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real images, not part of the project: PENULTIMATE_DATA, else ../shared/data; skips without them."""
    folder = Path(os.environ.get("PENULTIMATE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real images of PENULTIMATE_DATA, none at {folder}")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """``photos/<class>/<n>.jpg``: three classes told apart by colour, eight noisy images each."""
    return write_photos(tmp_path / "photos")


def write_photos(root: Path, *, images_per_class: int = IMAGES_PER_CLASS, size: int = 40) -> Path:
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(images_per_class):
            pixels = rng.normal(90, 30, (size, size + number, 3))
            pixels[..., label] += 90
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{number:02d}.jpg", quality=95)
    return root
