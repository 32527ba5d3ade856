from pathlib import Path

import numpy as np
import pytest
from near_duplicates import main, measure, report, synthetic

from penultimate.engine.bench.timing.report import read_report
from penultimate.engine.neighbors.duplicates import Search


def test_copies_are_near_their_originals_and_nothing_else_is() -> None:
    rows_ND, copies_C2 = synthetic(1_000, 64)
    assert len(copies_C2) == 10
    assert len(np.unique(copies_C2)) == 20
    distance_C = 1 - np.einsum("cd,cd->c", rows_ND[copies_C2[:, 0]], rows_ND[copies_C2[:, 1]])
    assert distance_C.max() < 0.05


@pytest.mark.parametrize("search", ["exact", "projected"])
def test_a_measurement_becomes_a_row_of_the_report(search: Search) -> None:
    record = measure(search, 2_000, 64)
    assert record["copies"] == 20
    assert record["copies_found"] >= 18
    (row,) = report([record]).tables["Near-duplicates among many rows"]
    assert (row["search"], row["rows"]) == (search, "2,000 x 64")
    assert row["copies found (95 %)"].endswith(f"; {record['copies_found']} of 20)")
    assert (row["nearest neighbour found, of a sample"] == "every pair compared") == (search == "exact")


@pytest.mark.slow
def test_every_search_is_a_process_and_a_row(tmp_path: Path) -> None:
    main([str(tmp_path / "report.md"), "exact:500x16", "projected:500x8"])
    found = read_report(tmp_path / "report.md")
    assert [(each["search"], each["rows"], each["dims"]) for each in found["results"]] == [
        ("exact", 500, 16),
        ("projected", 500, 8),
    ]
    assert found["other_cores"] == max(each["other_cores"] for each in found["results"])
