"""Write and read as many bytes without a store: the rate of the disk, or of the object store, itself."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penultimate.store.objects.objects import Objects

# Shapes: N rows, D features.

CAN_DROP = hasattr(os, "posix_fadvise")
"""True where the kernel can be asked to forget files (Linux)."""


class PlainFiles:
    """Features as plain objects of a shard's size, or as ``.npy`` files of a folder."""

    def __init__(self, objects: Objects, values_ND: NDArray[np.float32], *, rows: int) -> None:
        """Write the features once, to be read; ``rows`` are those of one object."""
        self._objects, self._values_ND = objects, values_ND
        self._starts = range(0, len(values_ND), rows)
        self._rows = rows
        if objects.is_local:
            self._npy.parent.mkdir(parents=True, exist_ok=True)
            np.save(self._npy, values_ND)
        else:
            objects.put_many(self._contents("kept"))

    @property
    def title(self) -> str:
        """Return what writing is called."""
        return "plain files, synced" if self._objects.is_local else "plain objects"

    @property
    def reader(self) -> str:
        """Return what reading is called."""
        return "numpy.load" if self._objects.is_local else "plain objects"

    def prepare(self) -> None:
        """Remove what was written, on the disk as well, so that only writing is timed."""
        self._objects.delete_folder("plain")
        if self._objects.is_local:
            sync_folder(self._objects.folder)

    def write(self) -> int:
        """Write every row, durably and with nothing else; return their number."""
        if not self._objects.is_local:
            self._objects.put_many(self._contents("plain"))
            return len(self._values_ND)
        folder = self._objects.folder / "plain"
        folder.mkdir()
        for start in self._starts:
            with (folder / str(start)).open("wb", buffering=0) as file:
                file.write(self._values_ND[start : start + self._rows].data)
                os.fsync(file.fileno())
        return len(self._values_ND)

    def read(self) -> int:
        """Read every row into memory; return their number."""
        if self._objects.is_local:
            values_ND: NDArray[np.float32] = np.load(self._npy)
            return len(values_ND)
        found = self._objects.get_many([f"kept/{start}" for start in self._starts])
        size = sum(len(content) for content in found if content is not None)
        return size // (4 * int(self._values_ND.shape[1]))

    def look_up(self, rows_B: NDArray[np.int64]) -> int:
        """Read some rows of the ``.npy`` file; return their number."""
        values_ND: NDArray[np.float32] = np.load(self._npy, mmap_mode="r")
        return len(values_ND[rows_B])

    @property
    def _npy(self) -> Path:
        return self._objects.folder / "kept" / "features.npy"

    def _contents(self, folder: str) -> dict[str, bytes]:
        return {f"{folder}/{start}": self._values_ND[start : start + self._rows].tobytes() for start in self._starts}


def drop_from_cache(folder: Path) -> None:
    """Ask the kernel to forget the pages of all files below ``folder``, as far as it does."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
