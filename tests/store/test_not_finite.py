"""Rows with NaN or infinity are found as NumPy finds them."""

import numpy as np
import pytest

from penultimate.store.not_finite import not_finite_rows

SPECIAL = [np.nan, -np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_exactly_nan_and_infinity_are_not_finite(dtype: str) -> None:
    limits = np.finfo(dtype)
    finite = [0.0, -0.0, limits.max, limits.min, limits.tiny, limits.smallest_subnormal, -limits.smallest_subnormal]
    rows_N1 = np.array([finite + SPECIAL], dtype).T
    assert not_finite_rows(rows_N1).tolist() == [False] * len(finite) + [True] * len(SPECIAL)
    assert not not_finite_rows(rows_N1[: len(finite)]).any()


def test_one_such_value_anywhere_in_a_row_is_found() -> None:
    rows_ND = np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32)
    rows_ND[[3, 3, 20, 49], [0, 8, 4, 8]] = SPECIAL
    assert np.flatnonzero(not_finite_rows(rows_ND)).tolist() == [3, 20, 49]


def test_every_half_is_classified_as_numpy_classifies_it() -> None:
    halves_N1 = np.arange(2**16, dtype=np.uint16).view(np.float16)[:, None]
    found = [bool(not_finite_rows(half_11)[0]) for half_11 in halves_N1[:, None]]
    np.testing.assert_array_equal(found, ~np.isfinite(halves_N1[:, 0]))
