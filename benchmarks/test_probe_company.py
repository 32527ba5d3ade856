from pathlib import Path

import numpy as np
import pytest
from probe_company import ALONE, BUSY, FITS, TWO, report
from waiting_threads import Work

from penultimate.engine.bench.timing.turns import TurnOptions


@pytest.mark.slow
def test_both_are_timed_alone_two_at_once_and_beside_a_busy_core(tmp_path: Path) -> None:
    labels_N = np.arange(60) % 3
    np.save(tmp_path / "y.npy", labels_N)
    features_ND = np.random.default_rng(0).normal(size=(60, 8)) + labels_N[:, None]
    np.save(tmp_path / "X.npy", features_ND.astype(np.float32))
    found = report(Work(features=tmp_path, images=tmp_path, strengths=3), TurnOptions(rounds=1))
    assert [(each.group, each.name) for each in found.measurements] == [
        (group, name) for group in (ALONE, TWO, BUSY) for name in FITS
    ]
    assert [row["what"] for row in found.tables["How many times as long it takes"]] == [*FITS]
