"""Thumbnails are small, upright, of the image that was embedded, and absent where there is none."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import penultimate
from penultimate.engine.images.thumbnails import PIXELS, thumbnails
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore


def _features(store: Path) -> FeatureSet:
    opened = FeatureStore(store)
    return opened.read(opened.keys()[0])


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_each_is_a_small_picture_of_its_image(probe_store: Path, photos: Path) -> None:
    features = _features(probe_store)
    made = thumbnails(features, features.ids.tolist(), pixels=16)
    assert list(made) == features.ids.tolist()
    for id_, content in made.items():
        picture = _opened(content)
        assert (picture.format, max(picture.size)) == ("WEBP", 16)
        mean = np.asarray(picture.convert("RGB"), float).mean((0, 1))
        assert np.abs(mean - np.asarray(Image.open(photos / id_), float).mean((0, 1))).max() < 12  # noise, and WebP


def test_small_images_are_not_enlarged(probe_store: Path) -> None:
    (content,) = thumbnails(_features(probe_store), ["cat/00.jpg"]).values()
    assert _opened(content).size == (40, 40)
    assert len(content) < 4096 * (PIXELS / 40) ** 2


def test_images_that_moved_are_found_where_one_says(probe_store: Path, photos: Path, tmp_path: Path) -> None:
    moved = photos.rename(tmp_path / "elsewhere")
    features = _features(probe_store)
    assert thumbnails(features, ["cat/00.jpg"]) == {}
    assert list(thumbnails(features, ["cat/00.jpg", "owl/07.jpg"], images=[str(moved)])) == ["cat/00.jpg", "owl/07.jpg"]
    with pytest.raises(InputError):
        thumbnails(features, ["cat/00.jpg"], images=[str(tmp_path / "nowhere")])


def test_an_image_that_was_changed_damaged_or_removed_has_none(probe_store: Path, photos: Path) -> None:
    (photos / "cat" / "00.jpg").write_bytes((photos / "cat" / "01.jpg").read_bytes())
    (photos / "cat" / "02.jpg").write_bytes(b"no image")
    (photos / "cat" / "03.jpg").unlink()
    asked = [f"cat/0{number}.jpg" for number in range(5)] + ["cat/never.jpg"]
    assert list(thumbnails(_features(probe_store), asked)) == ["cat/01.jpg", "cat/04.jpg"]


def test_they_are_turned_upright(photos: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (80, 20), "red").save(photos / "cat" / "00.jpg", exif=exif)
    penultimate.extract(photos, store=tmp_path / "s.zarr", model="test_vit", weights="random", parity=False)
    (content,) = thumbnails(_features(tmp_path / "s.zarr"), ["cat/00.jpg"]).values()
    assert _opened(content).size == (20, 80)
