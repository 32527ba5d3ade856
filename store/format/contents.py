"""Content digests: what the bytes or pixels of a sample are known by, and the digest of a set that is made of them.

A content digest is three words of 64 bits: the size and both halves of the XXH3-128 of an encoded file's bytes, or of
the pixels of an image that came as an array. In arrays they are (N, 3) uint64, in texts ``<bytes>:<32 hex digits>`` or
``<height>x<width>x3:<32 hex digits>``.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from json.encoder import encode_basestring_ascii

import numpy as np
import xxhash
from numpy.typing import NDArray

# Shapes: N samples, K classes, H x W pixels.

Content = tuple[int, int, int]
"""A content digest: size in bytes, or ``_PIXELS`` with height and width, then the high and low half of the XXH3-128."""

UNKNOWN: Content = (0, 0, 0)
"""Stands for the content of a sample that nobody has read; no file has it, since that of 0 bytes has another hash."""

UNREADABLE: Content = (2**64 - 1, 0, 0)
"""Stands for the content of a sample that could not be read when its row was made."""

_PIXELS = 2**63
"""Added to the size of pixels, which is height * 2**31 + width."""

_LINES_AT_ONCE = 4096
"""Number of samples whose lines are in memory while a set is digested."""


def content_of(data: bytes | memoryview | NDArray[np.uint8]) -> Content:
    """Return the content digest of an encoded file, or of pixels (H, W, 3) uint8.

    >>> content_text(content_of(b"abc"))
    '3:06b05ab6733a618578af5f94892f3950'
    """
    if isinstance(data, np.ndarray):
        height, width = data.shape[:2]
        size, data = _PIXELS + height * 2**31 + width, np.ascontiguousarray(data).data
    else:
        size = len(data)
    value = xxhash.xxh3_128_intdigest(data)
    return size, value >> 64, value & (2**64 - 1)


def content_text(content: Sequence[int]) -> str:
    """Return a content digest as text: ``<bytes>:<hex>``, ``<height>x<width>x3:<hex>``, ``unreadable``, ``unknown``."""
    size, high, low = content
    if (size, high, low) in (UNKNOWN, UNREADABLE):
        return "unknown" if size == 0 else "unreadable"
    pixels = size - _PIXELS
    form = f"{pixels >> 31}x{pixels & (2**31 - 1)}x3" if pixels >= 0 else str(size)
    return f"{form}:{high:016x}{low:016x}"


def content_from_text(text: str) -> Content:
    """Return the content digest that ``content_text`` wrote; raises ValueError for any other text."""
    if text == "unreadable":
        return UNREADABLE
    form, _, digits = text.partition(":")
    height, *width = (int(part) for part in form.split("x")[:2])
    if len(digits) != 32:
        raise ValueError(f"expected 32 hex digits after the size of a content digest, got {text!r}")
    size = _PIXELS + height * 2**31 + width[0] if width else height
    return size, int(digits[:16], 16), int(digits[16:], 16)


def no_contents(num_samples: int) -> NDArray[np.uint64]:
    """Return (N, 3) contents of which none is known."""
    return np.zeros((num_samples, 3), np.uint64)


def is_known(contents_N3: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return (N,) whether each content was read: neither UNKNOWN nor UNREADABLE."""
    known_N: NDArray[np.bool_] = (contents_N3[:, 1:] != 0).any(axis=1)
    return known_N


def is_unknown(contents_N3: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return (N,) whether each content is UNKNOWN, so that only reading tells more."""
    unknown_N: NDArray[np.bool_] = (contents_N3 == 0).all(axis=1)
    return unknown_N


def set_digest(
    *,
    ids: Iterable[str],
    labels_N: NDArray[np.int64] | NDArray[np.uint8],
    split_N: Iterable[str],
    class_names: Sequence[str],
    contents_N3: NDArray[np.uint64] | None,
) -> str:
    """Return the digest of a set of samples, 16 hex digits of a SHA-256: one JSON line of class names, one a sample.

    Without contents it is the digest of the listing, which says what was asked for before anything is read.
    """
    sha256 = hashlib.sha256(json.dumps(list(class_names), separators=(",", ":")).encode() + b"\n")
    all_ids, all_splits = iter(ids), iter(split_N)
    for start in range(0, len(labels_N), _LINES_AT_ONCE):
        labels_B = labels_N[start : start + _LINES_AT_ONCE]
        num_lines = len(labels_B)
        # One format for many lines, filled in by one call: half the time of a formatted string a line.
        fields: list[object] = [None] * (4 * num_lines)
        fields[0::4] = map(encode_basestring_ascii, islice(all_ids, num_lines))
        fields[1::4] = labels_B.tolist() if labels_B.ndim == 1 else _compact(labels_B)
        fields[2::4] = islice(all_splits, num_lines)
        fields[3::4] = ["null"] * num_lines if contents_N3 is None else _quoted(contents_N3[start : start + num_lines])
        sha256.update(('[%s,%s,"%s",%s]\n' * num_lines % tuple(fields)).encode())
    return sha256.hexdigest()[:16]


def _compact(labels_BK: NDArray[np.int64] | NDArray[np.uint8]) -> list[str]:
    """Return each row of labels as JSON has lists of integers, without spaces."""
    return [str(label).replace(" ", "") for label in labels_BK.tolist()]


def _quoted(contents_B3: NDArray[np.uint64]) -> list[str]:
    """Return each content as a JSON string."""
    if not (is_known(contents_B3) & (contents_B3[:, 0] < _PIXELS)).all():
        return [f'"{content_text(content)}"' for content in contents_B3.tolist()]
    digits = contents_B3[:, 1:].astype(">u8").tobytes().hex()  # files, which were read: the hex of all
    sizes = contents_B3[:, 0].tolist()
    return [f'"{size}:{digits[32 * number : 32 * (number + 1)]}"' for number, size in enumerate(sizes)]
