"""The C library's allocator, told to keep what is freed: a forward pass writes where the last one wrote."""

import ctypes
import platform

# From glibc's malloc.h: parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

_KEPT_BYTES = 2**31 - 1
"""Free memory at the end of the heap that is kept; the largest that mallopt, whose values are C ints, can be told."""


def keep_freed_memory() -> bool:
    """Let freed blocks stay with this process whatever their size; False where the C library is not glibc.

    glibc by default asks the kernel for every large block and gives it back when it is freed. The maps of a network's
    layers are such blocks, so that each pass faults in and clears hundreds of megabytes anew: a third of the
    processors' time for EfficientNet-Lite0 in float32, 5,000 page faults an image
    (``benchmarks/results/extract_cpu_202611.md``). One arena, because those of threads give back theirs in any case.

    To be called before threads are begun, which would otherwise have arenas already; the command line does, first of
    all. It holds until the process ends, whose memory then stays at its highest. No result depends on it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _KEPT_BYTES}
    return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
