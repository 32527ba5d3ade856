"""Only certain files count as plain; the tests of the decoders show that those are decoded alike."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from penultimate.engine.images.decode.file_header import Size, jpeg_png_size

Photo = Callable[..., Image.Image]
Encode = Callable[..., bytes]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"\xff\xd9" * 9}])
def test_complete_jpeg_files_are_plain(photo: Photo, encode: Encode, options: dict[str, object]) -> None:
    content = encode(photo(0, 31, 57), "JPEG", **options)
    assert jpeg_png_size(content) == Size(31, 57)
    assert jpeg_png_size(content + bytes(1000)) == Size(31, 57)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_complete_8_bit_png_files_without_palette_are_plain(photo: Photo, encode: Encode, mode: str) -> None:
    assert jpeg_png_size(encode(photo(0, 31, 57).convert(mode), "PNG")) == Size(31, 57)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("options", [{}, {"comment": b"\xff\xd9"}])
def test_no_beginning_of_a_file_is_plain(photo: Photo, encode: Encode, kind: str, options: dict[str, object]) -> None:
    content = encode(photo(0), kind, **options)
    lengths = [*range(700), *range(700, len(content) - 1, 97), len(content) - 1]
    assert not any(jpeg_png_size(content[:length]) for length in lengths)


def test_jpeg_files_coded_as_rgb_are_not_plain(photo: Photo, encode: Encode) -> None:
    """nvJPEG may take their components for YCbCr; Pillow does what Adobe's marker and the components' names say."""
    both = encode(photo(0), "JPEG", keep_rgb=True)
    marker = both.index(b"\xff\xee")
    names_alone = both[:marker] + both[marker + 16 :]
    frame = both.index(b"\xff\xc0")
    marker_alone = bytearray(both)
    for component in range(3):
        marker_alone[frame + 10 + 3 * component] = component + 1
    scan = bytes(marker_alone).index(b"\xff\xda")
    for component in range(3):
        marker_alone[scan + 5 + 2 * component] = component + 1
    with Image.open(io.BytesIO(bytes(marker_alone))) as image, Image.open(io.BytesIO(both)) as other:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(other.convert("RGB")))
    for content in (both, names_alone, bytes(marker_alone)):
        assert jpeg_png_size(content) is None
    with_transform = bytearray(marker_alone)
    with_transform[marker + 15] = 1
    assert jpeg_png_size(bytes(with_transform)) == Size(120, 160)
    gray = encode(photo(0).convert("L"), "JPEG")
    assert jpeg_png_size(gray[:2] + both[marker : marker + 16] + gray[2:]) == Size(120, 160)


def test_other_kinds_are_not_plain(photo: Photo, encode: Encode) -> None:
    image = photo(0)
    deep = Image.fromarray(np.zeros((9, 9), np.uint16))
    others = [encode(image.convert(mode), "PNG") for mode in ("P", "1")] + [encode(deep, "PNG")]
    others += [encode(image.convert("CMYK"), "JPEG")]
    others += [encode(image, kind) for kind in ("GIF", "WEBP", "BMP", "TIFF", "PPM")]
    assert not any(jpeg_png_size(content) for content in others)
    arithmetic = bytearray(encode(image, "JPEG"))
    arithmetic[arithmetic.index(b"\xff\xc0") + 1] = 0xC9
    assert jpeg_png_size(bytes(arithmetic)) is None
