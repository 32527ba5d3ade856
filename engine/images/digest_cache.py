"""DigestCache keeps content digests of image files seen before, so that a set of millions is not read again.

An entry is valid as long as its file has the inode, size, modification time and change time it had. The entries of one
source lie in one Parquet file, ``<folder>/<digest of the source's location>.parquet``, which is read as a whole and
replaced as a whole by a rename. If two processes write at once, the last one's file stays, and what the other added is
computed again.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from penultimate.store.errors import InputError
from penultimate.store.format.contents import no_contents
from penultimate.store.format.digest import digest_of

# Shapes: N samples of a set, F = 4 fields of a FileFingerprint.

_SETTLED_NS = 2_000_000_000
_FORMAT = 1


class FileFingerprint(NamedTuple):
    """The metadata by which a file is recognised as unchanged; a sample inside an archive has the archive's.

    The names of the fields are columns of the digest cache's files.
    """

    number: int
    """Inode of the file, or a number made of the ETag of an object."""

    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike[str] | int) -> "FileFingerprint":
        """Return the fingerprint of the file at ``path``, links followed, or of an open file; raise OSError if gone."""
        status = os.stat(path)
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @classmethod
    def of_object(cls, meta: Mapping[str, Any], size: int) -> "FileFingerprint":
        """Return the fingerprint of an object with ``size`` bytes from the ``e_tag`` or ``version`` in its metadata.

        Either changes with the content, so that times would add nothing. UNKNOWN if the server gives neither.
        """
        known = meta.get("e_tag") or meta.get("version")  # a listing has no version where reading gives both
        return cls(int(digest_of(known), 16) >> 1, size, 0, 0) if known else UNKNOWN

    def is_settled(self) -> bool:
        """Return whether any later change must show: file systems keep times in steps of up to 2 s."""
        return time.time_ns() - max(self.modified_ns, self.changed_ns) > _SETTLED_NS


UNKNOWN = FileFingerprint(-1, -1, -1, -1)
"""Fingerprint of a sample that the cache does not hold, or that cannot be cached."""

_COLUMNS = ("id", *FileFingerprint._fields, "content")
_SCHEMA = pa.schema(
    [("id", pa.string()), *((name, pa.int64()) for name in FileFingerprint._fields), ("content", pa.binary())]
)


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Cached fingerprint and content digest of each sample of a set."""

    fingerprints_NF: NDArray[np.int64]
    """Fingerprint of each sample, UNKNOWN where none is cached."""

    contents_N3: NDArray[np.uint64]
    """Content digest of each sample, as ``store.format.contents`` defines them."""


class DigestCache:
    """A cache of entries by sample id, one file a source, in ``folder``, which is made when first written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, location: str) -> Path:
        """Return the file that holds the entries of the source at ``location``."""
        return self.folder / f"{digest_of([_FORMAT, location])}.parquet"

    def load(self, location: str, ids: Sequence[str]) -> Entries:
        """Return the cached entries of these samples; raise InputError if the file is damaged."""
        entries = Entries(np.full((len(ids), len(UNKNOWN)), UNKNOWN, np.int64), no_contents(len(ids)))
        path = self.path(location)
        try:
            table = parquet.read_table(path, schema=_SCHEMA)
            contents_N3 = _contents(table["content"])
        except FileNotFoundError:
            return entries
        except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
            raise InputError(
                f"the digest cache {path} cannot be read: {error}; delete it, or use --no-cache"
            ) from error
        row_N = np.asarray(pc.fill_null(pc.index_in(pa.array(ids, pa.string()), value_set=table["id"]), -1))
        known = row_N >= 0
        rows = row_N[known]
        for field, name in enumerate(FileFingerprint._fields):
            entries.fingerprints_NF[known, field] = table[name].to_numpy()[rows]
        entries.contents_N3[known] = contents_N3[rows]
        return entries

    def save(self, location: str, ids: Sequence[str], entries: Entries) -> None:
        """Replace all entries of a source, atomically; raise InputError where nothing can be written."""
        path = self.path(location)
        draft = path.with_suffix(f".{uuid4().hex}.partial")
        keep = entries.fingerprints_NF[:, 0] != UNKNOWN.number
        columns: list[Any] = [pa.array(ids, pa.string()).filter(pa.array(keep))]
        columns += [pa.array(entries.fingerprints_NF[keep, field]) for field in range(len(UNKNOWN))]
        columns += [_texts(entries.contents_N3[keep])]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), draft, compression="zstd")
            draft.replace(path)
        except OSError as error:
            if draft.exists():
                draft.unlink()
            raise InputError(f"the digest cache {path} cannot be written: {error}; use --no-cache") from error


def _contents(texts: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return the (N, 3) contents of texts ``<bytes>:<32 hex digits>``; Arrow parses, a million in under a second."""
    texts = texts.cast(pa.string())
    parts = [
        pc.utf8_slice_codeunits(texts, 0, -33),
        pc.binary_join_element_wise("0x", pc.utf8_slice_codeunits(texts, -32, -16), ""),
        pc.binary_join_element_wise("0x", pc.utf8_slice_codeunits(texts, -16), ""),
    ]
    return np.stack([part.cast(pa.uint64()).to_numpy() for part in parts], axis=1)


def _texts(contents_N3: NDArray[np.uint64]) -> pa.Array:
    """Return the texts that ``_contents`` reads."""
    digits = contents_N3[:, 1:].astype(">u8").tobytes().hex().encode()
    hashes = pa.array(np.frombuffer(digits, "S32").tolist(), pa.binary())
    sizes = pa.array(contents_N3[:, 0]).cast(pa.string()).cast(pa.binary())
    return pc.binary_join_element_wise(sizes, hashes, b":")


def user_cache() -> DigestCache:
    """Return the user's own cache, in the folder ``digests`` below ``cache_folder``."""
    return DigestCache(cache_folder() / "digests")


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/penultimate``, by default below ``~/.cache`` (XDG base directory specification)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "penultimate"
