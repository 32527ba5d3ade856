"""The peak of memory is that since it was last forgotten."""

from pathlib import Path

import numpy as np
import pytest

from penultimate.engine.bench.timing.memory import forget_peak, peak_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs proc(5)")

SIZE = 64 << 20


def test_the_peak_is_seen_and_forgotten() -> None:
    before = forget_peak()
    held = np.ones(SIZE, np.uint8)
    del held
    assert peak_bytes() - before > SIZE / 2
    assert forget_peak() - before < SIZE / 2
    assert peak_bytes() - before < SIZE / 2
