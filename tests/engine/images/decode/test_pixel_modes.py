"""Every mode that Pillow opens: the same picture in any of them comes out as that picture, or the mode is named."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.factory import make_decoder
from penultimate.engine.images.decode.pillow import open_image
from penultimate.engine.images.decode.pixel_modes import to_rgb
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.train.augment.augmenter import CropSettings
from penultimate.engine.train.augment.draws import BatchDraws
from penultimate.engine.train.augment.factory import make_augmenter

SIZE = 32
WHOLE = Preprocess(height=SIZE, width=SIZE, resize="whole", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
RAMP_HW = np.tile(np.arange(SIZE, dtype=np.uint16) * 8 + 4, (SIZE, 1))
"""Levels 4 to 252 of 255, from left to right."""

DEEP_HW = ((RAMP_HW << 8) | 0x5A).astype(np.uint16)
"""The same with 16 bits: its eight high bits are the ramp."""

GRAY = Image.fromarray(RAMP_HW.astype(np.uint8))
COLOUR = Image.merge("RGB", (GRAY, GRAY.rotate(90), GRAY.rotate(180)))


def saved(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def pgm(values_HW: NDArray[np.integer[Any]], largest: int) -> bytes:
    return f"P5 {SIZE} {SIZE} {largest}\n".encode() + values_HW.astype(">u2").tobytes()


def raw_tiff(values: bytes, bits: int, kind: int) -> bytes:
    """A TIFF of one strip, written by hand for what Pillow reads and does not write; ``kind`` is the sample format."""
    tags = [(256, SIZE), (257, SIZE), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, SIZE)]
    tags += [(279, len(values)), (339, kind)]
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\x04\0\1\0\0\0" + value.to_bytes(4, "little") for tag, value in tags
    )
    directory = len(tags).to_bytes(2, "little") + entries + bytes(4)
    return b"II*\0" + (8 + len(values)).to_bytes(4, "little") + values + directory


def packed_12_bits(values_HW: NDArray[np.integer[Any]]) -> bytes:
    """Two samples in three bytes, most significant bit first."""
    bits = "".join(f"{value:012b}" for value in values_HW.ravel())
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


DEEP = {
    "16 bits.png": saved(Image.fromarray(DEEP_HW), "PNG"),
    "16 bits.tif": saved(Image.fromarray(DEEP_HW), "TIFF"),
    "16 bits big-endian.tif": saved(Image.frombytes("I;16B", (SIZE, SIZE), DEEP_HW.astype(">u2").tobytes()), "TIFF"),
    "16 bits.pgm": pgm(DEEP_HW, 65_535),
    "12 bits.pgm": pgm(DEEP_HW >> 4, 4_095),
    "12 bits.tif": raw_tiff(packed_12_bits(DEEP_HW >> 4), 12, 1),
    "floats to 1.tif": saved(Image.fromarray(RAMP_HW.astype(np.float32) / 255), "TIFF"),
    "floats to 255.tif": saved(Image.fromarray(RAMP_HW.astype(np.float32)), "TIFF"),
    "gray.jp2": saved(Image.fromarray(DEEP_HW), "JPEG2000"),
}
"""Files of modes that ``convert`` clips, all of the gray ramp."""

SHALLOW = {
    "1.png": (saved(GRAY.convert("1"), "PNG"), GRAY.convert("1").convert("RGB")),
    "L.png": (saved(GRAY, "PNG"), GRAY.convert("RGB")),
    "LA.png": (saved(GRAY.convert("LA"), "PNG"), GRAY.convert("RGB")),
    "P.png": (saved(GRAY.convert("P"), "PNG"), GRAY.convert("P").convert("RGB")),
    "RGBA.png": (saved(COLOUR.convert("RGBA"), "PNG"), COLOUR),
    "CMYK.tif": (saved(COLOUR.convert("CMYK"), "TIFF"), COLOUR),
    "YCbCr.tif": (saved(COLOUR.convert("YCbCr"), "TIFF"), COLOUR),
    "RGB.ppm": (saved(COLOUR, "PPM"), COLOUR),
}
"""Files of modes of 8 bits a channel and fewer, with what they show."""

REFUSED = {
    "32 bits.tif": (saved(Image.fromarray(RAMP_HW.astype(np.int32)), "TIFF"), "mode I,"),
    "kelvin.tif": (saved(Image.fromarray(RAMP_HW.astype(np.float32) + 273), "TIFF"), "mode F holds values from 277"),
    "negative.tif": (saved(Image.fromarray(RAMP_HW.astype(np.float32) - 100), "TIFF"), "mode F holds values from -96"),
    "nan.tif": (saved(Image.fromarray(np.full((SIZE, SIZE), np.nan, np.float32)), "TIFF"), "mode F holds values"),
    "camera.png": (saved(Image.fromarray(DEEP_HW >> 5), "PNG"), "mode I;16 holds values up to 2018 of 65535"),
}
"""Files whose range nobody declares, or that fill too little of it, with how the reason begins."""


@pytest.mark.parametrize("name", DEEP)
def test_deep_grayscale_is_scaled_by_its_range(name: str) -> None:
    got_HW3 = np.asarray(open_image(DEEP[name]))
    np.testing.assert_array_equal(got_HW3, np.repeat(RAMP_HW.astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("name", SHALLOW)
def test_modes_of_eight_bits_show_what_they_hold(name: str) -> None:
    data, shown = SHALLOW[name]
    off = np.abs(np.asarray(open_image(data)).astype(int) - np.asarray(shown).astype(int))
    assert off.max() <= 3  # Pillow truncates on the way to YCbCr and back, where a blue of 1 counts 1.772


@pytest.mark.parametrize(
    ("mode", "make"),
    [
        ("HSV", lambda: COLOUR.convert("HSV")),
        ("LAB", lambda: Image.new("LAB", (4, 4), (200, 128, 128))),
        ("PA", lambda: COLOUR.convert("P").convert("PA")),
        ("RGBa", lambda: COLOUR.convert("RGBA").convert("RGBa")),
        ("La", lambda: GRAY.convert("LA").convert("La")),
        ("RGBX", lambda: COLOUR.convert("RGBX")),
    ],
)
def test_modes_that_few_files_have_are_neither_black_nor_white(mode: str, make: Callable[[], Image.Image]) -> None:
    image = make()
    assert image.mode == mode
    assert 60 < np.asarray(to_rgb(image)).mean() < 240


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_range_is_refused_with_its_mode(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{reason}"):
        open_image(data)


@pytest.mark.parametrize("deep", [np.uint16, np.float32])
def test_black_stays_black(deep: type) -> None:
    assert not np.asarray(open_image(saved(Image.fromarray(np.zeros((4, 4), deep)), "TIFF"))).any()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


DECODERS = ["pillow", "dali", "dali-gpu"]


def decoder_named(name: str) -> Decoder:
    if name == "pillow":
        return make_decoder(name, num_workers=1)
    pytest.importorskip("nvidia.dali")
    if name == "dali-gpu":
        from penultimate.engine.images.decode.dali_gpu import DaliGpuDecoder

        return DaliGpuDecoder(device="cpu")
    return make_decoder(name, num_workers=1)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_opens_them_alike(name: str, tmp_path: Path) -> None:
    files = DEEP | {other: data for other, (data, _) in (SHALLOW | REFUSED).items()}
    readable = {other: data for other, data in files.items() if other.endswith((".png", ".tif"))}
    images = load_folder(write(tmp_path / "files", readable), labels=False)
    (batch,) = decoder_named(name).batches(images, np.arange(len(images)), [WHOLE], batch_size=64)
    assert {str(images.ids_N[row]) for row in batch.failed} == REFUSED.keys()
    for row, pixels_HWC in zip(batch.indices_B.tolist(), np.asarray(batch.views[0]), strict=True):
        expected_HWC = np.asarray(open_image(readable[str(images.ids_N[row])]))
        np.testing.assert_array_equal(pixels_HWC, expected_HWC)


def turned_jpeg(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    COLOUR.resize((SIZE, 2 * SIZE)).save(buffer, "JPEG", exif=exif, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_where_it_is_asked_for_and_only_there(orientation: int) -> None:
    data = turned_jpeg(orientation)
    with Image.open(io.BytesIO(data)) as image:
        stored, upright = np.asarray(image.convert("RGB")), np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_image(data)), stored)
    np.testing.assert_array_equal(np.asarray(open_image(data, upright=True)), upright)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_turns_images_only_in_the_views_that_ask(name: str, tmp_path: Path) -> None:
    images = load_folder(write(tmp_path / "photos", {f"{n}.jpg": turned_jpeg(n) for n in range(1, 9)}), labels=False)
    views = [WHOLE, replace(WHOLE, exif_orientation=True)]
    (batch,) = decoder_named(name).batches(images, np.arange(8), views, batch_size=8)
    (reference,) = decoder_named("pillow").batches(images, np.arange(8), views, batch_size=8)
    for got, expected in zip(batch.views, reference.views, strict=True):
        # The decoders' own tolerance of resizing; a turned image is off by tens.
        assert np.abs(np.asarray(got).astype(int) - np.asarray(expected).astype(int)).mean() < 1.0
    stored, upright = (np.asarray(view).astype(int) for view in batch.views)
    assert np.abs(stored[0] - upright[0]).mean() < 1.0
    assert (np.abs(stored[1:] - upright[1:]).mean(axis=(1, 2, 3)) > 5.0).all()


@pytest.mark.parametrize("name", ["pillow", "dali"])
def test_augmenters_open_what_decoders_open(name: str, tmp_path: Path) -> None:
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    files = {"deep.png": DEEP["16 bits.png"], "float.tif": DEEP["floats to 1.tif"], "turned.jpg": turned_jpeg(6)}
    images = load_folder(write(tmp_path / "files", files), labels=False)
    whole = BatchDraws(step=0, rows_B=np.arange(3), crops_BA4=np.full((3, 1, 4), 0.5), flips_B=np.zeros(3, np.bool_))
    augmenter = make_augmenter(name, num_workers=1, device=torch.device("cpu"))
    for upright in (False, True):
        settings = CropSettings(
            height=SIZE,
            width=SIZE,
            interpolation="bicubic",
            scale=(1.0, 1.0),
            ratio=(1.0, 1.0),
            exif_orientation=upright,
        )
        pixels = augmenter.augment(images, whole, settings).images_BHWC.numpy()
        np.testing.assert_array_equal(pixels[0, 0, :, 0], RAMP_HW[0])
        np.testing.assert_array_equal(pixels[1, 0, :, 0], RAMP_HW[0])
        stored = open_image(files["turned.jpg"], upright=upright)
        side = min(stored.size)  # a square crop of all the width or height, from the centre
        left, top = (stored.width - side) // 2, (stored.height - side) // 2
        expected = np.asarray(stored.crop((left, top, left + side, top + side)))
        assert np.abs(pixels[2].astype(int) - expected.astype(int)).mean() < 1.0


def test_the_digest_of_a_preprocess_is_as_it_was_unless_orientation_is_asked_for() -> None:
    assert WHOLE.digest == "bc53c601b53cff03"  # as before the option was there
    assert replace(WHOLE, exif_orientation=True).digest != WHOLE.digest
    assert replace(WHOLE, exif_orientation=True).pixels != WHOLE.pixels
