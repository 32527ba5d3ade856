"""TrialLog: Trials in a folder, one record a line, with their per-sample arrays beside; append-only.

    <log>/trials.jsonl                   one JSON object a line, in the order the trials ended
    <log>/arrays/<id>-<checksum>.npz     arrays of one trial, written before its line

A record counts once its line ends in a newline: a line torn by a kill is left out, reported in ``torn_bytes``,
and cut off by the next append.
"""

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError, NotAStoreError, StoreError
from penultimate.store.layout import bytes_checksum, fixed_width
from penultimate.store.objects import storage_errors
from penultimate.store.trial import Trial

LOG_VERSION = 1
"""Raised whenever an older penultimate could misread a newer record."""

_RECORDS, _ARRAYS = "trials.jsonl", "arrays"
_SCALARS = [field.name for field in fields(Trial) if field.name != "arrays"]


class TrialLog:
    """Reads the log in ``path``; ``TrialLog.create`` begins one. Raises NotAStoreError where there is none."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._records = self.path / _RECORDS
        if not self._records.is_file():
            raise NotAStoreError(f"there is no trial log at {self.path} (no {_RECORDS}); `penultimate probe` makes one")

    @classmethod
    def create(cls, path: str | Path) -> Self:
        """Open the log in ``path``, or begin one where nothing lies or an empty folder does.

        The folder's parent must exist (InputError); a folder that holds something else raises NotAStoreError.
        """
        folder = Path(path)
        with storage_errors(folder):
            if not folder.absolute().parent.is_dir():
                raise InputError(f"cannot make a trial log at {folder}: there is no folder {folder.absolute().parent}")
            if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
                folder.mkdir(exist_ok=True)
                (folder / _RECORDS).touch()
        return cls(folder)

    @property
    def torn_bytes(self) -> int:
        """Length of a last line that was cut off while it was written; 0 if there is none."""
        return len(self._content().rpartition(b"\n")[2])

    def trials(self) -> list[Trial]:
        """All trials in the order they ended; of several with one id, the last. Arrays are read when asked for."""
        return [self._trial(record) for record in self._by_id().values()]

    def ids(self) -> frozenset[str]:
        """Of all trials."""
        return frozenset(self._by_id())

    def contains(self, trial_id: str) -> bool:
        """Whether a trial with this id is in the log."""
        return trial_id in self._by_id()

    def append(self, trial: Trial) -> None:
        """Add a trial, durably; other processes may append to the same log.

        Raises InputError if a field holds NaN or what JSON cannot hold: an outcome that is not there is absent.
        """
        try:
            record = {"version": LOG_VERSION, "id": trial.id} | {name: getattr(trial, name) for name in _SCALARS}
            content = _npz(trial.arrays)
            name = f"{trial.id}-{bytes_checksum(content)}.npz"
            line = json.dumps(record | {_ARRAYS: name}, allow_nan=False, default=_plain).encode() + b"\n"
        except (ValueError, TypeError) as error:
            raise InputError(f"trial of {trial.backbone} on {trial.dataset} cannot be written down: {error}") from error
        with storage_errors(self.path), self._locked() as records:
            _write_atomically(self.path / _ARRAYS / name, content)
            _append_line(records, line)

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The records, held by this writer alone; the kernel lets go when its process ends."""
        with self._records.open("r+b") as records:
            fcntl.flock(records, fcntl.LOCK_EX)
            yield records

    def _content(self) -> bytes:
        with storage_errors(self._records):
            return self._records.read_bytes()

    def _by_id(self) -> dict[str, dict[str, Any]]:
        records: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(self._content().split(b"\n")[:-1], start=1):
            record = self._parsed(number, line)
            records.pop(record["id"], None)
            records[record["id"]] = record
        return records

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(line)
            version = record["version"]
            missing = {"id", _ARRAYS, *_SCALARS} - record.keys()
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self._records}, line {number} is no trial ({error!r}); remove that line") from error
        if version > LOG_VERSION:
            raise NotAStoreError(f"{self._records}, line {number} is of version {version}, newer than this penultimate")
        if missing:
            raise StoreError(f"{self._records}, line {number} has no {', '.join(sorted(missing))}; remove that line")
        return record

    def _trial(self, record: Mapping[str, Any]) -> Trial:
        arrays = _StoredArrays(self.path / _ARRAYS / record[_ARRAYS])
        return Trial(arrays=arrays, **{name: record[name] for name in _SCALARS})


class _StoredArrays(Mapping[str, NDArray[Any]]):
    """Arrays of one trial, read when first asked for and checked against the checksum in their file's name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays: dict[str, NDArray[Any]] | None = None

    def _read(self) -> dict[str, NDArray[Any]]:
        if self._arrays is None:
            with storage_errors(self._path):
                content = self._path.read_bytes()
            if bytes_checksum(content) != self._path.stem.rpartition("-")[2]:
                raise StoreError(f"{self._path} does not hold what was written; fit the trial again")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                self._arrays = dict(arrays)
        return self._arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Variable-length strings become fixed-length ones, which ``.npy`` can hold; compressed, they cost as little."""
    file = io.BytesIO()
    plain = {name: fixed_width(array) if array.dtype.kind == "T" else array for name, array in arrays.items()}
    np.savez_compressed(file, allow_pickle=False, **plain)
    return file.getvalue()


def _plain(value: Any) -> Any:
    """JSON form of what the standard encoder does not know: NumPy scalars and read-only mappings."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")  # one at a time: the log is locked
    try:
        with partial.open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _append_line(records: BinaryIO, line: bytes) -> None:
    """Cut off a torn last line, then add ``line``; what could be written in part only is taken back."""
    size = _whole_lines(records)
    records.truncate(size)
    records.seek(size)
    try:
        records.write(line)
        records.flush()
        os.fsync(records.fileno())
    except OSError:
        records.truncate(size)
        raise


def _whole_lines(records: BinaryIO) -> int:
    """Bytes up to and with the last newline."""
    records.seek(0)
    return records.read().rfind(b"\n") + 1
