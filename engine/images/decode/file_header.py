"""Read from the first bytes of an encoded image which decoders may decode it, and how large it is.

JPEG markers: ITU-T T.81 annex B (table B.1 and B.2.2); PNG chunks: ISO/IEC 15948, 5.3 and 11.2.2.
"""

from struct import Struct
from typing import NamedTuple

_SEGMENT = Struct(">BBH")  # 0xFF, marker, length of what follows the marker
_FRAME = Struct(">BHHB")  # precision, height, width, number of components
_BASELINE_EXTENDED_PROGRESSIVE = frozenset({0xC0, 0xC1, 0xC2})  # Huffman-coded, not lossless
# Lossless, hierarchical or arithmetic:
_OTHER_FRAMES = frozenset({0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
_START_OF_SCAN = 0xDA
_ADOBE = 0xEE  # APP14, whose twelfth byte is 0 for components that are RGB (Adobe Technical Note 5116, section 18)
_END_OF_IMAGE = b"\xff\xd9"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xae\x42\x60\x82"
_PNG_PALETTE = 3
_PNG_HEADER = Struct(">IIBBBBB")


class Size(NamedTuple):
    """Height and width in pixels of an image as stored, before any EXIF rotation."""

    height: int
    width: int


def jpeg_png_size(data: bytes) -> Size | None:
    """Return the size of a *plain* JPEG or PNG file, one that every decoder decodes alike, and None for anything else.

    Plain are complete 8-bit JPEG files, Huffman-coded baseline, extended or progressive, grayscale or YCbCr, and
    complete 8-bit PNG files, grayscale or RGB, with or without alpha, not interlaced. RGB and CMYK JPEG files,
    arithmetic-coded, 12-bit, palette, 16-bit and truncated files, other formats, and data that is no image are not
    plain. RGB is what Adobe's marker or the names of the components say: libjpeg goes by them, nvImageCodec may
    not.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(_PNG_SIGNATURE):
        return _png_size(data)
    return None


def _jpeg_size(data: bytes) -> Size | None:
    last, position = len(data) - _SEGMENT.size, 2
    size, components, is_rgb = None, 0, False
    while position <= last:
        prefix, marker, length = _SEGMENT.unpack_from(data, position)
        if prefix != 0xFF or marker in _OTHER_FRAMES:
            return None
        # Inside a scan 0xFF is followed by 0x00 or a restart marker, so this end is the image's (B.1.1.5). An
        # embedded thumbnail's lies before the scan.
        if marker == _START_OF_SCAN:
            is_plain = data.rfind(_END_OF_IMAGE, position) != -1 and not (components == 3 and is_rgb)
            return size if is_plain else None
        if marker == 0xFF:  # fill byte (B.1.1.2)
            position += 1
            continue
        if marker in _BASELINE_EXTENDED_PROGRESSIVE:
            if length < 8 or position + 10 > len(data):
                return None
            precision, height, width, components = _FRAME.unpack_from(data, position + 4)
            if precision != 8 or components not in (1, 3) or not height or not width:
                return None
            size = Size(height, width)
            is_rgb = is_rgb or data[position + 10 : position + 18 : 3] == b"RGB"
        elif marker == _ADOBE:
            is_rgb = is_rgb or data[position + 4 : position + 9] + data[position + 15 : position + 16] == b"Adobe\0"
        position += 2 + length
    return None


def _png_size(data: bytes) -> Size | None:
    if len(data) < 45 or data[12:16] != b"IHDR" or _PNG_END not in data[-64:]:
        return None
    width, height, depth, color, _compression, _filter, interlace = _PNG_HEADER.unpack_from(data, 16)
    if depth != 8 or color == _PNG_PALETTE or interlace != 0 or not height or not width:
        return None
    return Size(height, width)
