"""HEIC images are read by the library of the extra ``heic``; without it, every message says how to get it."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from penultimate.engine.images.decode.factory import make_decoder
from penultimate.engine.images.decode.pillow import PillowDecoder, open_image
from penultimate.engine.images.folders.file_kinds import READS_AVIF, READS_HEIC
from penultimate.engine.images.load import load_images
from penultimate.engine.images.preprocess import Preprocess

reads_heic = pytest.mark.skipif(not READS_HEIC, reason="pillow-heif is not installed (the extra heic)")
Encode = Callable[..., bytes]

HALF = (0.5, 0.5, 0.5)
VIEW = Preprocess(height=32, width=48, resize="whole", mean=HALF, std=HALF)
UPRIGHT = Preprocess(height=32, width=48, resize="whole", mean=HALF, std=HALF, exif_orientation=True)

YCBCR_ROUNDING = 3
"""Levels by which a lossless HEIC may be off: HEVC keeps YCbCr of 8 bits, each rounded once (ITU-R BT.601)."""


def corners(height: int = 40, width: int = 64) -> Image.Image:
    """Make an image that is another one in each orientation: a corner red, one green, one blue, one gray."""
    pixels_HWC = np.full((height, width, 3), 128, np.uint8)
    top, left = height // 2, width // 2
    pixels_HWC[:top, :left], pixels_HWC[:top, left:], pixels_HWC[top:, :left] = (
        (200, 30, 30),
        (30, 180, 40),
        (40, 40, 220),
    )
    return Image.fromarray(pixels_HWC)


def heic(encode: Encode, image: Image.Image, *, orientation: int | None = None) -> bytes:
    """Encode without loss and with all the colour; the library writes an orientation as the container's rotation."""
    options: dict[str, Any] = {"quality": -1, "chroma": 444}
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif.tobytes()
    return encode(image, "HEIF", **options)


def off_by(found: Image.Image, expected: Image.Image) -> int:
    assert found.size == expected.size
    return int(np.abs(np.asarray(found, np.int16) - np.asarray(expected, np.int16)).max())


@reads_heic
@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40), (37, 51)])
def test_pixels_and_size_are_those_that_were_encoded(encode: Encode, height: int, width: int) -> None:
    image = corners(height, width)
    found = open_image(heic(encode, image))
    assert (found.mode, found.size) == ("RGB", (width, height))
    assert off_by(found, image) <= YCBCR_ROUNDING


@reads_heic
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_containers_rotation_is_applied_once_whatever_is_said_of_exif(encode: Encode, orientation: int) -> None:
    content = heic(encode, corners(), orientation=orientation)
    png = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners().save(png, "PNG", exif=exif)
    upright = open_image(png.getvalue(), upright=True)
    for asked in (False, True):
        assert off_by(open_image(content, upright=asked), upright) <= YCBCR_ROUNDING


@reads_heic
@pytest.mark.parametrize("decoder", ["pillow", "dali"])
def test_every_decoder_gives_the_pixels_of_the_reference(encode: Encode, tmp_path: Path, decoder: str) -> None:
    image = corners()
    (tmp_path / "a.heic").write_bytes(heic(encode, image, orientation=6))
    (tmp_path / "b.HEIF").write_bytes(heic(encode, image))
    (tmp_path / "c").write_bytes(heic(encode, image)[:])  # known by its content
    (tmp_path / "d.jpg").write_bytes(encode(image, "JPEG"))
    (tmp_path / "e.heic").write_bytes(heic(encode, image)[:-400])
    images = load_images(tmp_path, labels=False)
    assert images.ids_N.tolist() == ["a.heic", "b.HEIF", "c", "d.jpg", "e.heic"]
    rows, failed = decoded(make_decoder(decoder, num_workers=2), images)
    assert list(failed) == [4]
    assert "\n" not in failed[4]
    for index, expected in ((0, image.transpose(Image.Transpose.ROTATE_270)), (1, image), (2, image)):
        resized = np.asarray(expected.resize((VIEW.width, VIEW.height), Image.Resampling.BICUBIC), np.int16)
        for pixels in rows[index]:
            assert np.abs(pixels.astype(np.int16) - resized).max() <= YCBCR_ROUNDING + 1


def decoded(decoder: Any, images: Any) -> tuple[dict[int, list[NDArray[np.uint8]]], dict[int, str]]:
    """Return the pixels of both views, and the reasons of failure, by the image's index."""
    rows: dict[int, list[NDArray[np.uint8]]] = {}
    failed: dict[int, str] = {}
    for batch in decoder.batches(images, np.arange(len(images)), [VIEW, UPRIGHT], batch_size=4):
        failed |= batch.failed
        rows |= {int(i): [np.asarray(view)[row] for view in batch.views] for row, i in enumerate(batch.indices_B)}
    return rows, failed


@reads_heic
def test_heic_images_are_rows_of_their_classes(encode: Encode, tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / "ab"[number % 2] / f"{number}.HEIC"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(heic(encode, corners(20 + number, 20)))
    images = load_images(tmp_path)
    assert (len(images), images.provenance["left_out"]) == (6, {})
    _, failed = decoded(PillowDecoder(), images)
    assert not failed


_WITHOUT = """
import sys
sys.modules["pillow_heif"] = None  # as if it were not installed
from penultimate.engine.images.decode.pillow import open_image, reason_of
from penultimate.engine.images.load import load_images
from penultimate.engine.images.summary import summary_of
from penultimate.store.errors import InputError
print(summary_of(load_images(sys.argv[1])))
for spec, labels in ((sys.argv[2], True), (sys.argv[2] + "/0.heic", False)):
    try:
        load_images(spec, labels=labels)
    except InputError as error:
        print(error)
try:
    open_image(open(sys.argv[2] + "/0.heic", "rb").read())
except Exception as error:
    print(reason_of(error))
"""


def test_without_the_library_every_message_names_it(tmp_path: Path) -> None:
    content = b"\0\0\0\x18ftypheic" + b"\0" * 16
    for path in ("some/a/1.heic", "some/b/2.HEIC", "all/0.heic", "all/1.heif"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    for name in "ab":
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / "some" / name / f"{number}.png")
    command = [sys.executable, "-c", _WITHOUT, str(tmp_path / "some"), str(tmp_path / "all")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    remedy = "(pip install 'penultimate[heic]' reads HEIC)"
    assert lines[0].endswith(f"left out: 2 .heic {remedy}")
    assert f"no images in '{tmp_path / 'all'}', only 1 .heic, 1 .heif {remedy}; expected" in lines[1]
    assert lines[2].endswith(f"0.heic', only 1 .heic {remedy}")
    assert lines[3] == f"ValueError: a .heic image, which no installed library reads {remedy}"


@pytest.mark.skipif(not READS_AVIF, reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_an_avif_is_turned_where_that_is_asked_as_a_jpeg_is(encode: Encode, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(corners(), "AVIF", quality=100, subsampling="4:4:4", exif=exif)
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[orientation]
    assert off_by(open_image(content), corners()) <= YCBCR_ROUNDING
    assert off_by(open_image(content, upright=True), corners().transpose(turned)) <= YCBCR_ROUNDING
