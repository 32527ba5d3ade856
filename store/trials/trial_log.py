"""TrialLog: an append-only log of Trials, one record per line, with their per-sample arrays beside it.

    <log>/trials.jsonl                   one JSON object per line, in the order the trials ended
    <log>/arrays/<id>-<checksum>.npz     arrays of one trial, written before its line

A record counts once its line ends in a newline: a line torn by a kill is left out, reported in ``torn_bytes``,
and cut off by the next append. In a bucket each line is an object of its own (``record_lines``).
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError, NotAStoreError, StoreError
from penultimate.store.format.layout import bytes_checksum, fixed_width
from penultimate.store.objects.objects import Objects
from penultimate.store.objects.open import open_objects
from penultimate.store.trials.record_lines import FileLines, ObjectLines, RecordLines
from penultimate.store.trials.trial import Trial

LOG_VERSION = 1
"""Version of a record, raised whenever an older penultimate could misread a newer one."""

_ARRAYS = "arrays"
_SCALARS = [field.name for field in fields(Trial) if field.name != "arrays"]


class TrialLog:
    """The log at ``location``, a folder or an ``s3://``, ``gs://`` or ``az://`` address.

    ``TrialLog.create`` makes a new one. Raises NotAStoreError where ``location`` holds none.
    """

    def __init__(self, location: str | Path) -> None:
        self.objects = open_objects(location)
        self._lines = _lines(self.objects)
        if not self._lines.exist():
            where = self.objects.where()
            if self.objects.is_vacant():
                raise NotAStoreError(f"there is no trial log at {where}; `penultimate probe` makes one")
            if not self._lines.exist():  # nor did another process make one since, of which these come first
                raise NotAStoreError(f"{where} is not empty and no trial log; choose a new or empty folder")

    @classmethod
    def create(cls, location: str | Path) -> Self:
        """Open the log at ``location``, or make one if nothing or an empty folder is there.

        Raises InputError if the folder's parent, or the bucket, does not exist, and NotAStoreError if the location
        holds something else.
        """
        objects = open_objects(location)
        if objects.is_vacant():
            objects.prepare()
            _lines(objects).begin()
        return cls(location)

    @property
    def address(self) -> str:
        """Return the text with which ``TrialLog`` opens this log again, also in another process."""
        return self.objects.address

    @property
    def path(self) -> Path:
        """Return the folder of a local log; raises InputError for one in a bucket."""
        return self.objects.folder

    @property
    def torn_bytes(self) -> int:
        """Return the length in bytes of a last line that was cut off while being written, else 0."""
        return len(self._lines.content().rpartition(b"\n")[2])

    def trials(self) -> list[Trial]:
        """Return all trials in the order they ended, the last of several with one id; arrays are read lazily."""
        return [self._trial(record) for record in self._by_id().values()]

    def ids(self) -> frozenset[str]:
        """Return the ids of all trials."""
        return frozenset(self._by_id())

    def contains(self, trial_id: str) -> bool:
        """Return whether a trial with this id is in the log."""
        return trial_id in self._by_id()

    def append(self, trial: Trial) -> None:
        """Append a trial durably; other processes may append to the same log at the same time.

        Raises InputError if a field holds NaN or a value without a JSON form; a missing value must be left out.
        """
        try:
            record = {"version": LOG_VERSION, "id": trial.id} | {name: getattr(trial, name) for name in _SCALARS}
            content = _npz(trial.arrays)
            name = f"{trial.id}-{bytes_checksum(content)}.npz"
            line = json.dumps(record | {_ARRAYS: name}, allow_nan=False, default=_plain).encode() + b"\n"
        except (ValueError, TypeError) as error:
            raise InputError(f"trial of {trial.backbone} on {trial.dataset} cannot be written down: {error}") from error
        self.objects.put(f"{_ARRAYS}/{name}", content)
        self._lines.append(line)

    def _by_id(self) -> dict[str, dict[str, Any]]:
        records: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(self._lines.content().split(b"\n")[:-1], start=1):
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
            raise StoreError(f"{self._lines.where(number)} is no trial ({error!r}); remove that line") from error
        if version > LOG_VERSION:
            raise NotAStoreError(f"{self._lines.where(number)} is of version {version}, newer than this penultimate")
        if missing:
            raise StoreError(f"{self._lines.where(number)} has no {', '.join(sorted(missing))}; remove that line")
        return record

    def _trial(self, record: Mapping[str, Any]) -> Trial:
        arrays = _StoredArrays(self.objects, f"{_ARRAYS}/{record[_ARRAYS]}")
        return Trial(arrays=arrays, **{name: record[name] for name in _SCALARS})


class _StoredArrays(Mapping[str, NDArray[Any]]):
    """The arrays of one trial, read on first access and checked against the checksum in their file's name."""

    def __init__(self, objects: Objects, name: str) -> None:
        self._objects = objects
        self._name = name
        self._arrays: dict[str, NDArray[Any]] | None = None

    def _read(self) -> dict[str, NDArray[Any]]:
        if self._arrays is None:
            content = self._objects.get(self._name)
            if content is None or bytes_checksum(content) != Path(self._name).stem.rpartition("-")[2]:
                raise StoreError(
                    f"{self._objects.where(self._name)} does not hold what was written; fit the trial again"
                )
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
    """Return the arrays as ``.npz`` bytes; StringDType becomes fixed width, which ``.npy`` can hold."""
    file = io.BytesIO()
    plain = {name: fixed_width(array) if array.dtype.kind == "T" else array for name, array in arrays.items()}
    np.savez_compressed(file, allow_pickle=False, **plain)
    return file.getvalue()


def _plain(value: Any) -> Any:
    """Return the JSON form of NumPy scalars and read-only mappings, which the standard encoder does not know."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _lines(objects: Objects) -> RecordLines:
    return FileLines(objects.folder) if objects.is_local else ObjectLines(objects)
