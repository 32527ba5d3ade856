"""The allocator reuses freed memory without a system call."""

import ctypes
import platform
import subprocess
import sys

import pytest

from penultimate.engine.runtime.malloc import keep_freed_memory

CHILD = """
import resource, sys
import numpy as np
from penultimate.engine.runtime.malloc import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def fill():
    np.ones(8 * 2**20)  # 64 MiB: above every threshold at which glibc maps a block of its own

fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left as it is")
def test_blocks_that_were_freed_are_not_faulted_in_again() -> None:
    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", CHILD, how], stdout=subprocess.PIPE, check=True).stdout)

    # 8 blocks of 16,384 pages, or of 32 huge ones where the kernel gives those.
    assert faults("leave") > 8 * 30
    assert faults("keep") < 8


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.delattr(ctypes, "CDLL")
    assert not keep_freed_memory()
