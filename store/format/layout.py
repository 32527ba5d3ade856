"""The on-disk format in one place: what lies where in a store, in which shapes, under which names.

    <store>/zarr.json                            group; an attribute says that this is a penultimate store
    <store>/<dataset>/<backbone>/<digest>/       one FeatureKey
        zarr.json                                group; written last, so its presence means complete
        features/   (M, D) float32 or float16    row i is sample i of the ImageSet, NaN where it failed
        labels/     (M,) int64 or (M, K) uint8
        ids/        (M,) string
        split/      (M,) string
        failed/     (M,) string                  why the sample could not be decoded, "" where it could
        features/commits/plan.json               what every writer of the key agreed on
        features/commits/<shard>.json            commit record of one shard
        features/writer.lock                     while it is written: who holds which shards

What is ours lies inside the folder of ``features``, where Zarr lists nothing, so that readers see five arrays. Groups
bear what Zarr's users do to them: further attributes, consolidated metadata, arrays and groups beside ours.
Everything is valid Zarr v3. Every chunk ends in a CRC-32C, so that no reader gets a flipped byte unnoticed.

A shard of ``features`` is one object: the unit of work, of resumption and of checksums. Measured on pooled
activations, 12,288 x 1,280 float32 (2 cores, zarr 3.1.6): CRC-32C alone writes 712 and reads 851 MB/s at
full size; zstd inside it saves 7.5 % of the space and halves both, with a byte shuffle no better.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penultimate.store.format.digest import digest_of

if TYPE_CHECKING:
    from penultimate.store.objects.objects import Objects

# Shapes: M samples of the ImageSet, D feature dimensions, K classes.

Strings = NDArray[Any]
"""Variable-length strings, one a sample: of dtype StringDType, which ``np.asarray`` hides from type checkers."""

FORMAT_VERSION = 1
"""Raised whenever an older penultimate could misread what a newer one writes."""

SHARD_ROWS = 1024
"""Rows of ``features`` in one object: at D = 1,280 in float32, 5 MiB."""

CHUNK_ROWS = 256
"""Rows in one chunk inside a shard: the least that can be read."""

COLUMN_ROWS = 65_536
"""Rows in one chunk of ``labels``, ``ids``, ``split`` and ``failed``."""

FEATURES, LABELS, IDS, SPLIT, FAILED = "features", "labels", "ids", "split", "failed"
COLUMNS = (LABELS, IDS, SPLIT, FAILED)
COMMITS = f"{FEATURES}/commits"
PLAN_OBJECT = f"{COMMITS}/plan.json"
LOCK = f"{FEATURES}/writer.lock"
METADATA = "zarr.json"

DIMENSIONS = {
    FEATURES: ("sample", "feature"),
    LABELS: ("sample", "class"),
    IDS: ("sample",),
    SPLIT: ("sample",),
    FAILED: ("sample",),
}


def is_digest(name: str) -> bool:
    """Whether a folder's name is that of a key: 16 hex digits."""
    return re.fullmatch(r"[0-9a-f]{16}", name) is not None


def array_documents(objects: "Objects", path: str) -> dict[str, bytes]:
    """Name -> ``zarr.json`` of the five arrays of the key at ``path``; b"" for one that is missing."""
    names = (FEATURES, *COLUMNS)
    documents = objects.get_many([f"{path}/{name}/{METADATA}" for name in names])
    return {name: document or b"" for name, document in zip(names, documents, strict=True)}


def num_shards(num_rows: int, shard_rows: int = SHARD_ROWS) -> int:
    """How many shards ``num_rows`` rows fill, the last one perhaps in part."""
    return -(-num_rows // shard_rows)


def shard_object(shard: int) -> str:
    """Object of one shard below its key: Zarr's default chunk key encoding of chunk (shard, 0)."""
    return f"{FEATURES}/c/{shard}/0"


def commit_object(shard: int) -> str:
    """Object of one shard's commit record below its key."""
    return f"{COMMITS}/{shard}.json"


def committed_shards(names: Iterable[str]) -> list[int]:
    """Shards that have a commit record, from the names below ``COMMITS``, increasing."""
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def variable_width(strings: Sequence[str] | NDArray[np.str_] | Strings) -> Strings:
    """Strings as they are stored."""
    return np.asarray(strings, dtype=np.dtypes.StringDType())


def fixed_width(strings: Strings) -> NDArray[np.str_]:
    """The same strings in NumPy's fixed-width dtype, to which it cannot cast these."""
    return np.array(strings.tolist(), dtype=np.str_)


def values_checksum(values: NDArray[Any]) -> str:
    """XXH3-128 of the values' C-order little-endian bytes, 32 hex digits; of strings, that of their JSON list."""
    if values.dtype.kind in "TUO":
        return xxhash.xxh3_128_hexdigest(json.dumps(values.tolist()).encode())
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)


def bytes_checksum(content: bytes) -> str:
    """XXH3-128 of bytes, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(content)


def shards_checksum(records: Mapping[int, Mapping[str, Any]]) -> str:
    """One digest of all features, from the checksums in the commit records, in row order."""
    return digest_of([records[shard]["features"] for shard in sorted(records)])
