"""On a CPU, memory that an update frees is kept for the next one instead of going back to the kernel.

glibc maps each block above 32 MiB anew and unmaps it when it is freed, and trims the heap besides; so every update's
activations are zeroed and faulted in again, page by page: of EfficientNet-Lite0 at 224 pixels, batch 32, some 490,000
faults an update, a quarter of its processor time (benchmarks/results/train_speed_cpu_202611.md).
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Of malloc.h; see mallopt(3)."""


def keep_freed_memory() -> bool:
    """Have this process's malloc neither unmap nor trim from now on; False where the C library is not glibc.

    No result depends on it. The process keeps its largest footprint until it ends.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, -1))
