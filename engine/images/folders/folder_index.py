"""FolderIndex holds every file and folder below a root with its kind, sorted; ``layout.interpret`` works on it alone.

Read are names, the first bytes of a file whose name does not tell its kind, and the columns of a Parquet file or of a
table called ``metadata``. Hidden and system folders, and what penultimate wrote itself (stores, trial logs, runs,
figures), are each one entry and not entered.
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

from penultimate.engine.images.folders import file_kinds
from penultimate.engine.images.folders.file_kinds import HIDDEN, IMAGE, PARQUET, PARQUET_IMAGES, SYSTEM, UNDECIDED
from penultimate.engine.images.formats.parquet_tables import image_column, parquet_columns
from penultimate.store.errors import InputError

_LISTING_THREADS = 16
"""Number of threads that list folders. They wait for the file system, not for a core: on a network each folder costs a
round trip."""

TABLE_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of tables of images in the same folder, as Hugging Face's ``imagefolder`` has them."""

Identity = tuple[int, int]
"""The device and inode of a folder, links followed."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FolderIndex:
    """The files and folders below a root; paths are POSIX, relative to it."""

    folders: Sequence[str]
    """Paths of the folders, sorted; those that were not entered are among ``files``."""

    files: Sequence[tuple[str, str]]
    """Path of each file and its kind as in ``file_kinds``, sorted by path."""

    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Path of each table called as in TABLE_NAMES -> the names of its columns."""

    identities: Mapping[str, Identity] = field(default_factory=dict)
    """Path -> identity of each folder that links lead to more than once."""


def index_folder(root: Path) -> FolderIndex:
    """List ``root`` level by level, several folders at a time; links are followed, but never in a circle.

    Raises InputError if there is no such folder, for a name that is not UTF-8, and for a folder that cannot be listed.
    """
    if not root.is_dir():
        raise InputError(f"no folder {str(root)!r}" + (" (it is a file)" if root.exists() else ""))
    _check_name(str(root.resolve()), None)
    folders: list[str] = []
    files: list[tuple[str, str]] = []
    identities: dict[str, Identity] = {}
    linked = False
    level: list[tuple[str, tuple[Identity, ...]]] = [("", ())]
    with ThreadPoolExecutor(_LISTING_THREADS, thread_name_prefix="list") as pool:
        while level:
            scanned = pool.map(_scan, [root / folder for folder, _ in level])
            deeper: list[tuple[str, tuple[Identity, ...]]] = []
            for (folder, above), found in zip(level, scanned, strict=True):
                if found.identity in above:
                    continue
                if found.kind is not None and folder:
                    files.append((folder, found.kind))
                    continue
                if found.kind is not None:
                    raise InputError(f"{str(root)!r} is a {found.kind}, not a folder of images")
                if folder:
                    folders.append(folder)
                    identities[folder] = found.identity
                linked |= found.linked
                prefix = f"{folder}/" if folder else ""
                files += [(prefix + name, kind) for name, kind in found.files]
                deeper += [(prefix + name, (*above, found.identity)) for name in found.folders]
            level = deeper
    files.sort()
    return FolderIndex(
        folders=sorted(folders),
        files=files,
        columns=_columns(root, files),
        identities=_reached_twice(identities) if linked else {},
    )


class _Scanned(NamedTuple):
    """The contents of one folder."""

    identity: Identity
    kind: str | None
    """Kind of the folder as a whole, which then is not entered; None for a plain folder."""

    folders: list[str]
    files: list[tuple[str, str]]
    linked: bool
    """True if any of the folders is a link."""


def _scan(folder: Path) -> _Scanned:
    folders: list[str] = []
    files: list[tuple[str, str]] = []
    linked = False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                kind = file_kinds.kind_of_name(entry.name)
                _check_name(entry.name, folder)
                if entry.is_dir() and kind not in (HIDDEN, SYSTEM):
                    folders.append(entry.name)
                    linked |= entry.is_symlink()
                else:
                    files.append((entry.name, _kind(entry, kind)))
        status = os.stat(folder)
    except OSError as error:
        _cannot_list(error)
    identity = (status.st_dev, status.st_ino)
    names = {*folders, *(name for name, _ in files)}
    return _Scanned(identity, file_kinds.kind_of_folder(names), sorted(folders), files, linked)


def _kind(entry: os.DirEntry[str], kind: str) -> str:
    """Return the kind of a file, which is opened only if its name does not tell."""
    if kind in (HIDDEN, SYSTEM):
        return kind
    if not entry.is_file():  # an image behind a broken link stays: decoding records that it is gone
        broken = entry.is_symlink() and not os.path.exists(entry.path)
        return kind if broken and kind == IMAGE else "broken link" if broken else "special file"
    try:
        if kind == UNDECIDED:
            return file_kinds.kind_of_file(entry.path)
        if kind == PARQUET:
            return PARQUET_IMAGES if image_column(Path(entry.path)) is not None else PARQUET
    except InputError:
        return "damaged .parquet"
    except OSError:
        return "file that cannot be opened"
    return kind


def _check_name(name: str, folder: Path | None) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        where = "" if folder is None else f" in {str(folder)!r}"
        raise InputError(f"the name of {name!r}{where} is not UTF-8; rename it") from error


def _cannot_list(error: OSError) -> NoReturn:
    raise InputError(f"cannot list the folder {error.filename!r}: {error.strerror}") from error


def _reached_twice(identities: Mapping[str, Identity]) -> dict[str, Identity]:
    seen: dict[Identity, int] = {}
    for identity in identities.values():
        seen[identity] = seen.get(identity, 0) + 1
    return {folder: identity for folder, identity in identities.items() if seen[identity] > 1}


def _columns(root: Path, files: Sequence[tuple[str, str]]) -> dict[str, Sequence[str]]:
    tables = [path for path, _ in files if path.rpartition("/")[2].lower() in TABLE_NAMES]
    return {path: columns_of(root / path) for path in tables}


def columns_of(table: Path) -> Sequence[str]:
    """Return the column names of a CSV, JSON Lines or Parquet table; none if it cannot be read: its reader says why."""
    try:
        if table.suffix.lower() == ".parquet":
            return parquet_columns(table)
        with table.open(newline="", encoding="utf-8-sig") as file:
            if table.suffix.lower() == ".csv":
                return [name.strip() for name in next(csv.reader(file), [])]
            record = json.loads(file.readline())
            return list(record) if isinstance(record, dict) else []
    except (InputError, OSError, ValueError, csv.Error):
        return []
