"""Identity of an image set: ids, labels, splits, class names and every sample's content."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penultimate.engine.images.ahead import ahead
from penultimate.engine.images.image_set import ImageSource

# Shapes: N samples, K classes.


def content_digests(source: ImageSource, num_samples: int) -> Iterator[str]:
    """``<bytes>:<xxh3_128>`` of each sample's content, in order, read on threads, a few samples in memory.

    A sample that cannot be read has ``unreadable``: it stays in the set, and decoding records why it failed.
    """
    num_threads = min(16, 2 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(num_threads, thread_name_prefix="digest") as pool:
        yield from ahead(pool, lambda index: _content_digest(source, index), range(num_samples), depth=4 * num_threads)


def _content_digest(source: ImageSource, index: int) -> str:
    try:
        content = source.read(index)
    except OSError:
        return "unreadable"
    if isinstance(content, bytes):
        return f"{len(content)}:{xxhash.xxh3_128_hexdigest(content)}"
    shape = "x".join(map(str, content.shape))
    return f"{shape}:{xxhash.xxh3_128_hexdigest(content.tobytes())}"


def image_set_digest(
    *,
    ids: Sequence[str],
    labels_N: NDArray[np.int64] | NDArray[np.uint8],
    split_N: NDArray[np.str_],
    class_names: Sequence[str],
    source: ImageSource,
) -> str:
    """First 16 hex digits of the SHA-256 over one JSON line of class names and one a sample."""
    sha256 = hashlib.sha256()

    def add(record: Any) -> None:
        sha256.update(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    add(list(class_names))
    samples = zip(ids, labels_N, split_N, content_digests(source, len(ids)), strict=True)
    for id_, label, split, content in samples:
        add([id_, label.tolist(), str(split), content])
    return sha256.hexdigest()[:16]
