"""RowSummary says of rows that come in chunks what NumPy and XXH3 say of them as a whole."""

import numpy as np
import pytest

from penultimate.store.format import layout
from penultimate.store.writer.row_summary import RowSummary, num_not_finite

SPECIAL = [np.nan, -np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 100])
def test_the_summary_of_chunks_is_that_of_all_rows(dtype: str, chunk_rows: int) -> None:
    rows_ND = np.random.default_rng(0).normal(size=(50, 9)).astype(dtype)
    rows_ND[[3, 3, 20, 49], [0, 8, 4, 8]] = SPECIAL
    summary = RowSummary()
    for start in range(0, 50, chunk_rows):
        summary.add(rows_ND[start : start + chunk_rows])
    assert summary.num_not_finite == 3
    assert summary.checksum == layout.values_checksum(rows_ND)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_exactly_nan_and_infinity_are_not_finite(dtype: str) -> None:
    limits = np.finfo(dtype)
    finite = [0.0, -0.0, limits.max, limits.min, limits.tiny, limits.smallest_subnormal, -limits.smallest_subnormal]
    rows_N1 = np.array([finite + SPECIAL], dtype).T
    assert [num_not_finite(row_11) for row_11 in rows_N1[:, None]] == [0] * len(finite) + [1] * len(SPECIAL)
    assert num_not_finite(rows_N1) == len(SPECIAL)


def test_every_half_is_classified_as_numpy_classifies_it() -> None:
    halves_N1 = np.arange(2**16, dtype=np.uint16).view(np.float16)[:, None]
    found = [num_not_finite(half_11) for half_11 in halves_N1[:, None]]
    np.testing.assert_array_equal(found, ~np.isfinite(halves_N1[:, 0]))
