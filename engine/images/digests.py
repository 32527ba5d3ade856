"""Digests that identify an image set: its ids, labels, splits, class names and every sample's content."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penultimate.engine.images.digest_cache import CONTENT_DTYPE, UNKNOWN, DigestCache, Entries
from penultimate.engine.images.image_set import ImageSource
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.store.errors import PenultimateError

# Shapes: N samples, K classes.

UNREADABLE = b"unreadable"
"""Content digest of a sample that could not be read when its set was digested."""

_GROUP = 256
"""Number of samples in one task: handing over a task takes about as long as digesting a small file."""


def content_digest(content: bytes | NDArray[np.uint8]) -> bytes:
    """Return ``<bytes>:<xxh3_128>`` for an encoded file and ``<height>x<width>x3:<xxh3_128>`` for pixels."""
    if isinstance(content, bytes):
        return f"{len(content)}:{xxhash.xxh3_128_hexdigest(content)}".encode()
    shape = "x".join(map(str, content.shape))
    return f"{shape}:{xxhash.xxh3_128_hexdigest(np.ascontiguousarray(content).data)}".encode()


def content_digests(ids: Sequence[str], source: ImageSource, *, cache: DigestCache | None = None) -> NDArray[np.bytes_]:
    """Read every sample and return the (N,) content digests; several threads read, and few samples are in memory.

    A sample that cannot be read has the digest ``unreadable``: it stays in the set, and decoding records why it
    failed. With a cache, a file whose fingerprint has not changed is not read; if the call is interrupted, the digests
    computed so far are cached.
    """
    known = cache.load(source.location, ids) if cache is not None else None
    found = Entries(np.full((len(ids), len(UNKNOWN)), UNKNOWN, np.int64), np.full(len(ids), UNREADABLE, CONTENT_DTYPE))

    def digest_group(first: int) -> None:
        for index in range(first, min(first + _GROUP, len(ids))):
            _digest_one(source, index, known, found)

    num_threads = min(16, 2 * usable_cores())
    try:
        with ThreadPoolExecutor(num_threads, thread_name_prefix="digest") as pool:
            for _ in prefetch_map(pool, digest_group, range(0, len(ids), _GROUP), depth=2 * num_threads):
                pass
    finally:
        if cache is not None and known is not None and not np.array_equal(known.fingerprints_NF, found.fingerprints_NF):
            cache.save(source.location, ids, found)
    return found.contents_N


def _digest_one(source: ImageSource, index: int, known: Entries | None, found: Entries) -> None:
    try:
        fingerprint = UNKNOWN if known is None else source.fingerprint(index)
        if known is not None and fingerprint != UNKNOWN and fingerprint == tuple(known.fingerprints_NF[index].tolist()):
            found.contents_N[index] = known.contents_N[index]
        else:
            found.contents_N[index] = content_digest(source.read(index))
    except PenultimateError:  # not this sample's fault: its server does not answer
        raise
    except OSError:
        return
    if fingerprint == UNKNOWN or fingerprint.is_settled():
        found.fingerprints_NF[index] = fingerprint


def image_set_digest(
    *,
    ids: Sequence[str],
    labels_N: NDArray[np.int64] | NDArray[np.uint8],
    split_N: NDArray[np.str_],
    class_names: Sequence[str],
    contents_N: NDArray[np.bytes_],
) -> str:
    """Return the first 16 hex digits of the SHA-256 over one JSON line of class names and one line a sample."""
    sha256 = hashlib.sha256()

    def add(record: Any) -> None:
        sha256.update(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    add(list(class_names))
    for id_, label, split, content in zip(ids, labels_N, split_N, contents_N, strict=True):
        add([id_, label.tolist(), str(split), content.decode()])
    return sha256.hexdigest()[:16]
