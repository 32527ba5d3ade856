"""What tests and doctests share: a folder of small photographs-to-be, and where the real data lies."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.photographs import write_photos

if find_spec("obstore") and find_spec("moto"):
    from support.s3_fixtures import impatient, proxy, server  # noqa: F401 (fixtures for every folder of tests)


# Ray starts workers at nice 15, which beside a busy process get so little time that tests run into their deadlines.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real images, not part of the project: PENULTIMATE_DATA, else ../shared/data; skips without them."""
    folder = Path(os.environ.get("PENULTIMATE_DATA", Path(__file__).parents[1] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real images of PENULTIMATE_DATA, none at {folder}")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """``photos/<class>/<n>.jpg``: three classes told apart by colour, eight noisy images each."""
    return write_photos(tmp_path / "photos")


@pytest.fixture
def probe_store(photos: Path, tmp_path: Path) -> Path:
    """A store with the features of ``photos`` through a tiny random network."""
    from penultimate import extract

    extract(photos, store=tmp_path / "features.zarr", model="test_vit", weights="random", parity=False)
    return tmp_path / "features.zarr"
