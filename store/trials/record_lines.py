"""RecordLines: the records of a trial log, one per line, append-only, for several writers at once.

In a folder they are the lines of one file, ``trials.jsonl``. Nothing can be appended to an object, so in a bucket each
line is an object of its own, ``trials/<number>.jsonl``; concatenated in order they are that file.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from typing_extensions import override

from penultimate.store.errors import StoreError
from penultimate.store.objects.local import storage_errors
from penultimate.store.objects.objects import Objects


class RecordLines(Protocol):
    """The lines of a log, each with its newline, in the order they were appended."""

    def exist(self) -> bool:
        """Return whether the log was created."""

    def begin(self) -> None:
        """Create the log, without any line."""

    def content(self) -> bytes:
        """Return all lines, followed by the bytes of a last one that was cut off while being written."""

    def append(self, line: bytes) -> None:
        """Append a line durably."""

    def where(self, number: int) -> str:
        """Describe the location of one line, counted from 1, for messages."""


class FileLines(RecordLines):
    """RecordLines in a local file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "trials.jsonl"

    @override
    def exist(self) -> bool:
        return self._path.is_file()

    @override
    def begin(self) -> None:
        with storage_errors(self._path):
            self._path.touch()

    @override
    def content(self) -> bytes:
        with storage_errors(self._path):
            return self._path.read_bytes()

    @override
    def append(self, line: bytes) -> None:
        # A torn last line is cut off first.
        with storage_errors(self._path), self._locked() as records:
            _append_line(records, line)

    @override
    def where(self, number: int) -> str:
        return f"{self._path}, line {number}"

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """Open the file, locked for this writer alone; the kernel releases the lock when the process ends."""
        with self._path.open("r+b") as records:
            fcntl.flock(records, fcntl.LOCK_EX)
            yield records


class ObjectLines(RecordLines):
    """RecordLines that are objects numbered from 0; each number is written only if its object does not exist yet."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._known: list[bytes] = []
        """Lines read before, which never change."""

    @override
    def exist(self) -> bool:
        return self._objects.exists(_BEGUN)

    @override
    def begin(self) -> None:
        self._objects.put(_BEGUN, b"penultimate trial log\n")

    @override
    def content(self) -> bytes:
        # An object is there as a whole, so that no line is torn.
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

    @override
    def append(self, line: bytes) -> None:
        # Take the next free number, or the one after it where another writer was first.
        number = len(self._objects.names(_FOLDER))
        while not self._objects.put_new(_line(number), line):
            number += 1

    @override
    def where(self, number: int) -> str:
        return self._objects.where(_line(number - 1))


_FOLDER = "trials"
_BEGUN = "trials.txt"


def _line(number: int) -> str:
    return f"{_FOLDER}/{number:09d}.jsonl"


def _append_line(records: BinaryIO, line: bytes) -> None:
    """Cut off a torn last line, then append ``line``; a partial write is undone."""
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
    """Return the number of bytes up to and including the last newline."""
    records.seek(0)
    return records.read().rfind(b"\n") + 1
