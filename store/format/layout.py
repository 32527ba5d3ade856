"""The on-disk format: the names and shapes of everything in a store.

    <store>/zarr.json                            group; an attribute says that this is a penultimate store
    <store>/<dataset>/<backbone>/<digest>/       one FeatureKey
        zarr.json                                group; written last, so its presence means complete
        features/   (M, D) float32 or float16    row i is sample i of the ImageSet, NaN where it failed
        labels/     (M,) int64 or (M, K) uint8
        ids/        (M,) string
        split/      (M,) string
        failed/     (M,) string                  why the sample could not be decoded, "" where it could
        features/commits/plan.json               the plan on which all writers of the key agree
        features/commits/<shard>.json            commit record of one shard
        features/writer.lock                     who holds which shards; only while the key is written

Commits and lock lie inside the folder of ``features``, where Zarr lists nothing, so that readers see five arrays.
Groups bear what Zarr's users do to them: further attributes, consolidated metadata, arrays and groups beside ours.
Everything is valid Zarr v3. Every chunk ends in a CRC-32C, so that no reader gets a flipped byte unnoticed.

A shard of ``features`` is one object: the unit of work, of resumption and of checksums. Measured on pooled
activations, 12,288 x 1,280 float32 (2 cores, zarr 3.1.6): CRC-32C alone writes 712 and reads 851 MB/s at
full size; zstd inside it saves 7.5 % of the space and halves both, with a byte shuffle no better.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penultimate.store.format.digest import digest_of

# Shapes: M samples of the ImageSet, D feature dimensions, K classes.

Strings = NDArray[Any]
"""Variable-length strings, one for each sample: dtype StringDType, which ``np.asarray`` hides from type checkers."""

FORMAT_VERSION = 1
"""Version of the on-disk format, raised whenever an older penultimate could misread what a newer one writes."""

SHARD_ROWS = 1024
"""Number of rows of ``features`` in one object: at D = 1,280 in float32, 5 MiB."""

CHUNK_ROWS = 256
"""Number of rows in one chunk inside a shard, the least that can be read."""

COLUMN_ROWS = 65_536
"""Number of rows in one chunk of ``labels``, ``ids``, ``split`` and ``failed``."""

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
    """Return whether a folder's name is that of a key: 16 hex digits."""
    return re.fullmatch(r"[0-9a-f]{16}", name) is not None


def num_shards(num_rows: int, shard_rows: int = SHARD_ROWS) -> int:
    """Return the number of shards that ``num_rows`` rows fill, the last one perhaps in part."""
    return -(-num_rows // shard_rows)


def shard_object(shard: int) -> str:
    """Return the name of a shard's object below its key, by Zarr's default chunk key encoding of chunk (shard, 0)."""
    return f"{FEATURES}/c/{shard}/0"


def commit_object(shard: int) -> str:
    """Return the name of a shard's commit record below its key."""
    return f"{COMMITS}/{shard}.json"


def committed_shards(names: Iterable[str]) -> list[int]:
    """Return the increasing shards that have a commit record, given the names below ``COMMITS``."""
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def variable_width(strings: Sequence[str] | NDArray[np.str_] | Strings) -> Strings:
    """Return strings as a StringDType array, as they are stored."""
    return np.asarray(strings, dtype=np.dtypes.StringDType())


def fixed_width(strings: Strings) -> NDArray[np.str_]:
    """Return the strings in NumPy's fixed-width dtype, to which NumPy itself cannot cast StringDType."""
    return np.array(strings.tolist(), dtype=np.str_)


def values_checksum(values: NDArray[Any]) -> str:
    """Return XXH3-128, 32 hex digits, of the values' little-endian bytes in C order, or of strings' JSON list."""
    if values.dtype.kind in "TUO":
        return xxhash.xxh3_128_hexdigest(json.dumps(values.tolist()).encode())
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)


def bytes_checksum(content: bytes) -> str:
    """Return XXH3-128 of bytes, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(content)


def shards_checksum(records: Mapping[int, Mapping[str, Any]]) -> str:
    """Return one digest of all features, made of the checksums in the commit records in row order."""
    return digest_of([records[shard]["features"] for shard in sorted(records)])
