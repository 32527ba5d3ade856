"""The on-disk format, version 2: the names and shapes of everything in a store.

    <store>/zarr.json                            group; an attribute says that this is a penultimate store
    <store>/<dataset>/<backbone>/<digest>/       one FeatureKey: a set of samples
        zarr.json                                group; written last, so its presence means complete
        ids/        (M,) string
        labels/     (M,) int64 or (M, K) uint8
        split/      (M,) string
        failed/     (M,) string                  why the sample has no features, "" where it has
        content/    (M, 3) uint64                content digest of each sample (``contents``)
        row/        (M,) int64                   row of each sample in the set's sources, -1 where it failed
    <store>/<dataset>/<backbone>/rows-<digest>-<n>/   the rows that one extraction embedded
        zarr.json                                group
        features/   (M, D) float32 or float16    in the order of that extraction's samples, packed into shards
        features/commits/plan.json               the plan on which all writers of these rows agree
        features/commits/<block>.json            commit record: samples of some blocks, their contents and rows
        features/commits/closed.json             the set that was made of them; from then on nothing is written
        features/writer.lock                     who holds which blocks; only while rows are written or referred to

A set's attributes name its ``sources``: folders with a ``features`` array, of which ``row`` counts the rows one after
the other. A sample that was embedded before, for this set or any other, refers to the row that is there, so that a set
that grew, moved or was labelled anew holds no features of its own but those of its new samples.

The M samples are divided into blocks of ``shard_rows``, the unit of work and of resumption. Features of a block's
samples lie in one shard: that of the block itself or, where most of them were there already, of one shortly before it,
so that few new rows among many old ones fill few shards. Hence of a set embedded at once, in which nothing failed and
no two samples are equal, row i is sample i. Shards that were not needed do not exist.

Commits and lock lie inside the folder of ``features``, where Zarr lists nothing, so that readers see arrays only.
Groups bear what Zarr's users do to them: further attributes, consolidated metadata, arrays and groups beside ours.
Everything is valid Zarr v3. Every chunk ends in a CRC-32C, so that no reader gets a flipped byte unnoticed.

In format 1 a key had the arrays ``features``, ``ids``, ``labels``, ``split`` and ``failed`` in its own group, with a
row for every sample, NaN where it failed; commits and lock as above. Such keys are read beside those of format 2.

A shard of ``features`` is one object: the unit of checksums and of reading. Measured on pooled activations,
12,288 x 1,280 float32 (2 cores, zarr 3.1.6): CRC-32C alone writes 712 and reads 851 MB/s at full size; zstd inside it
saves 7.5 % of the space and halves both, with a byte shuffle no better.
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

FORMAT_VERSION = 2
"""Version of the on-disk format, raised whenever an older penultimate could misread what a newer one writes."""

SHARD_ROWS = 1024
"""Least number of rows of ``features`` in one object: at D = 1,280 in float32, 5 MiB."""

CHUNK_ROWS = 64
"""Number of rows in one chunk inside a shard, the least that can be read; a shard's last one is padded."""

COLUMN_ROWS = 65_536
"""Number of rows in one chunk of a column."""

FEATURES, LABELS, IDS, SPLIT, FAILED = "features", "labels", "ids", "split", "failed"
CONTENT, ROW = "content", "row"
FORMAT1_COLUMNS = (LABELS, IDS, SPLIT, FAILED)
COLUMNS = (*FORMAT1_COLUMNS, CONTENT, ROW)
COMMITS = f"{FEATURES}/commits"
PLAN_OBJECT = f"{COMMITS}/plan.json"
CLOSED_OBJECT = f"{COMMITS}/closed.json"
LOCK = f"{FEATURES}/writer.lock"
METADATA = "zarr.json"

DIMENSIONS = {
    FEATURES: ("row", "feature"),
    LABELS: ("sample", "class"),
    IDS: ("sample",),
    SPLIT: ("sample",),
    FAILED: ("sample",),
    CONTENT: ("sample", "word"),
    ROW: ("sample",),
}

_ROWS = re.compile(r"rows-([0-9a-f]{16})-(\d+)")


def is_digest(name: str) -> bool:
    """Return whether a folder's name is that of a key: 16 hex digits."""
    return re.fullmatch(r"[0-9a-f]{16}", name) is not None


def rows_folder(job: str, number: int) -> str:
    """Return the name of the folder of the rows that an extraction embeds, given the digest of what it does."""
    return f"rows-{job}-{number}"


def rows_folder_parts(name: str) -> tuple[str, int] | None:
    """Return the digest and the number in a name by ``rows_folder``, or None for any other name."""
    match = _ROWS.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def shard_rows_for(num_samples: int) -> int:
    """Return the rows of a shard for a set of so many samples: more for larger sets, so that objects stay few.

    1,024 up to 16,384 samples, then doubled whenever there would be more than 16 shards, up to 8,192. A kill loses the
    shards that are not full, so that a sixteenth of the work is the most that one costs.
    """
    shard_rows = SHARD_ROWS
    while num_samples > 16 * shard_rows and shard_rows < 8192:
        shard_rows *= 2
    return shard_rows


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
