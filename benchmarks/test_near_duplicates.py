import numpy as np
import pytest
from near_duplicates import measure, synthetic, table

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
    text = table([record])
    assert f"| {search} | 2,000 x 64 |" in text
    assert all(line.count("|") == 11 for line in text.splitlines() if line.startswith("|"))
