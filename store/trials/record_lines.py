"""RecordLines: where the records of a trial log lie, one a line, append-only, for several writers at once.

In a folder they are the lines of one file, ``trials.jsonl``. An object cannot be added to, so that in an object store
each line is an object of its own, ``trials/<number>.jsonl``; ``cat`` of them in order is the file.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from penultimate.store.errors import StoreError
from penultimate.store.objects.local import storage_errors
from penultimate.store.objects.objects import Objects


class RecordLines(Protocol):
    """Lines, each with its newline, in the order they were appended."""

    def exist(self) -> bool:
        """Whether the log was begun."""

    def begin(self) -> None:
        """Begin the log, without any line."""

    def content(self) -> bytes:
        """All lines, and after them what is there of one that was cut off while it was written."""

    def append(self, line: bytes) -> None:
        """Add a line, durably, after those there are."""

    def where(self, number: int) -> str:
        """The place of one line, from 1, for people."""


class FileLines:
    """Lines of a local file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "trials.jsonl"

    def exist(self) -> bool:
        """See ``RecordLines.exist``."""
        return self._path.is_file()

    def begin(self) -> None:
        """See ``RecordLines.begin``."""
        with storage_errors(self._path):
            self._path.touch()

    def content(self) -> bytes:
        """See ``RecordLines.content``."""
        with storage_errors(self._path):
            return self._path.read_bytes()

    def append(self, line: bytes) -> None:
        """See ``RecordLines.append``; a torn last line is cut off first."""
        with storage_errors(self._path), self._locked() as records:
            _append_line(records, line)

    def where(self, number: int) -> str:
        """See ``RecordLines.where``."""
        return f"{self._path}, line {number}"

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file, held by this writer alone; the kernel lets go when its process ends."""
        with self._path.open("r+b") as records:
            fcntl.flock(records, fcntl.LOCK_EX)
            yield records


class ObjectLines:
    """Lines that are objects, numbered from 0; that there is no object yet of a number decides who may write it."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._known: list[bytes] = []
        """Lines read before: they do not change."""

    def exist(self) -> bool:
        """See ``RecordLines.exist``."""
        return self._objects.exists(_BEGUN)

    def begin(self) -> None:
        """See ``RecordLines.begin``."""
        self._objects.put(_BEGUN, b"penultimate trial log\n")

    def content(self) -> bytes:
        """See ``RecordLines.content``; an object is there as a whole, so that no line is torn."""
        numbers = sorted(int(name.removesuffix(".jsonl")) for name in self._objects.names(_FOLDER))
        if numbers != list(range(len(numbers))):
            missing = next(number for number in range(len(numbers)) if number not in numbers)
            raise StoreError(f"{self._objects.where(_line(missing))} is missing: a trial was removed from the log")
        new = [_line(number) for number in numbers[len(self._known) :]]
        for name, line in zip(new, self._objects.get_many(new), strict=True):
            if line is None:
                raise StoreError(f"{self._objects.where(name)} was removed while it was read; run again")
            self._known.append(line)
        return b"".join(self._known)

    def append(self, line: bytes) -> None:
        """See ``RecordLines.append``: the next free number, or the one after where another writer was first."""
        number = len(self._objects.names(_FOLDER))
        while not self._objects.put_new(_line(number), line):
            number += 1

    def where(self, number: int) -> str:
        """See ``RecordLines.where``."""
        return self._objects.where(_line(number - 1))


_FOLDER = "trials"
_BEGUN = "trials.txt"


def _line(number: int) -> str:
    return f"{_FOLDER}/{number:09d}.jsonl"


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
