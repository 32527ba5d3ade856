from pathlib import Path

import numpy as np
import pytest
from planted_twins import EDITS, found, report

from penultimate.engine.neighbors.unit_rows import scale_to_unit


def test_copies_are_counted_with_their_originals_and_with_the_twins_of_these() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 16)).astype(np.float32)
    rows[1] = rows[0] + 0.01
    copies = np.stack([rows[0] + 0.02, rows[7] + 0.02, -rows[9]]).astype(np.float32)
    for each in (rows, copies):
        scale_to_unit(each)
    assert found(rows, copies, np.array([0, 7, 9]), 0.3) == (2, 3, 3)


@pytest.mark.slow
def test_the_report_has_a_row_for_each_kind(photos: Path, tmp_path: Path) -> None:
    made = report(photos, tmp_path / "s.zarr", model="test_vit", weights="random", copies=4, seed=0, ratio=0.3)
    rows = made.tables["Planted twins"]
    assert [row["copy"] for row in rows] == [*EDITS, "all five at once"]
    assert [row["recall"].split(" of ")[1] for row in rows] == ["4)"] * len(EDITS) + ["20)"]
