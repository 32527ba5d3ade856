"""DirectWriter: write a large file past the page cache, from memory of its own that is used again and again.

The kernel would take a page for every 4 KiB of a shard, clear or fetch it, copy the shard there, and write that to the
disk at the sync: more processor time than all else of a commit together. Here a shard is copied into a few megabytes
that stay in the processor's cache and goes from there to the disk. Whoever reads it next reads from the disk.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_CAN_WRITE_DIRECTLY = hasattr(os, "O_DIRECT")
"""True on Linux; whether a file system can is known once it is asked to."""

_LEAST_BYTES = 4 * 2**20
"""Size of the smallest file that is written so: a small one is worth keeping in memory, and is copied in no time."""

_BLOCK_BYTES = 4 * 2**20
"""Number of bytes given to the disk at once."""

_ALIGNMENT = 4096
"""What addresses, offsets and sizes are multiples of: the logical block of any disk, or more."""

_Bytes = NDArray[np.uint8]


class DirectWriter:
    """Write files directly; safe for use by several threads. Its memory is a block for each that writes at once."""

    def __init__(self) -> None:
        self._free: list[_Bytes] = []

    def write(self, handle: int, parts: Sequence[bytes | memoryview]) -> bool:
        """Write all parts into an empty file; returns False if it is small, or the file system takes no direct writes.

        Then the file is to be written from its beginning in the usual way. The last bytes, fewer than a disk's block,
        are in the page cache until the file is synced. Raises OSError.
        """
        if not _CAN_WRITE_DIRECTLY or sum(memoryview(part).nbytes for part in parts) < _LEAST_BYTES:
            return False
        try:
            block = self._free.pop()
        except IndexError:
            block = _aligned_block()
        flags = fcntl.fcntl(handle, fcntl.F_GETFL)
        try:
            fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_DIRECT)
            offset = 0
            for count in _filled(block, parts):
                aligned = count - count % _ALIGNMENT
                _write_at(handle, block[:aligned], offset)
                if aligned < count:
                    fcntl.fcntl(handle, fcntl.F_SETFL, flags)
                    _write_at(handle, block[aligned:count], offset + aligned)
                offset += count
            return True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fcntl.fcntl(handle, fcntl.F_SETFL, flags)
            return False
        finally:
            self._free.append(block)


def _aligned_block() -> _Bytes:
    memory = np.empty(_BLOCK_BYTES + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + _BLOCK_BYTES]


def _filled(block: _Bytes, parts: Sequence[bytes | memoryview]) -> Iterator[int]:
    """Copy the parts into ``block``, one behind the other; yield the number of its bytes that are to be written."""
    count = 0
    for part in filter(len, parts):
        left = np.frombuffer(part, np.uint8)
        while len(left):
            taken = left[: len(block) - count]
            block[count : count + len(taken)] = taken
            left, count = left[len(taken) :], count + len(taken)
            if count == len(block):
                yield count
                count = 0
    if count:
        yield count


def _write_at(handle: int, content: _Bytes, offset: int) -> None:
    """Write all of ``content``, however much the kernel takes at once."""
    while len(content):
        written = os.pwrite(handle, content.data, offset)
        content, offset = content[written:], offset + written
