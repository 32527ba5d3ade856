"""The peak of memory is that since it was last forgotten."""

import mmap
from pathlib import Path

import pytest

from penultimate.engine.bench.timing.memory import forget_peak, peak_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs proc(5)")

SIZE = 64 << 20


def test_the_peak_is_seen_and_forgotten() -> None:
    before = forget_peak()
    with mmap.mmap(-1, SIZE) as held:  # pages of its own, whatever memory the allocator has kept
        for page in range(0, SIZE, mmap.PAGESIZE):
            held[page] = 1
    assert peak_bytes() - before > SIZE / 2
    assert forget_peak() - before < SIZE / 2
    assert peak_bytes() - before < SIZE / 2
