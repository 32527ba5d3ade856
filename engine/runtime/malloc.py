"""Let the C library's allocator keep freed memory, so that a forward pass writes where the last one wrote."""

import ctypes
import platform

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

_KEPT_BYTES = 2**31 - 1
"""Number of free bytes at the end of the heap that are kept: the largest C int, as mallopt's values are C ints."""


def keep_freed_memory() -> bool:
    """Let freed blocks stay with this process whatever their size; return False where the C library is not glibc.

    By default glibc gets every large block from the kernel and gives it back when it is freed. The maps of a network's
    layers are such blocks, so that each pass faults in and clears hundreds of megabytes anew: a third of the
    processors' time for EfficientNet-Lite0 in float32, 5,000 page faults an image
    (``benchmarks/results/extract_cpu_202611.md``). There is one arena, because those of threads give memory back in any
    case.

    Call it before threads are started, which would otherwise have arenas already; the command line does so first of
    all. It holds until the process ends, whose memory then stays at its highest. No result depends on it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _KEPT_BYTES}
    return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
