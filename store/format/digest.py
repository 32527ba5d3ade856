"""Digest a JSON-able value: the SHA-256 of its canonical JSON, shortened."""

import hashlib
import json
from typing import Any


def digest_of(value: Any) -> str:
    """Return the first 16 hex digits (64 bits) of the SHA-256 of ``value`` as canonical JSON.

    Keys are sorted and floats written by ``repr``, so equal values have equal digests on every platform.
    NaN and values JSON cannot hold raise ``ValueError`` or ``TypeError``.

    >>> digest_of({"b": 1, "a": 0.5}) == digest_of({"a": 0.5, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
