"""Numbers are written as people read them."""

from typing import Any

import numpy as np
import pytest

from penultimate.engine.analysis.statistics.interval import top1_interval
from penultimate.engine.bench.timing.cells import fraction, median_and_range, number, texts


def test_numbers_have_three_digits() -> None:
    texts = [number(value) for value in (0.0, 0.00012345, 0.01234, 1.2345, 12.345, 123.45, 12345.6)]
    assert texts == ["0", "0.00012", "0.0123", "1.23", "12.3", "123", "12,346"]


def test_digits_are_as_many_as_asked_for() -> None:
    assert [number(value, 4) for value in (0.00012345, 1.2345, 123.45, 12345.6)] == [
        "0.000123", "1.234", "123.5", "12,346",
    ]  # fmt: skip


def test_rows_become_texts_with_the_headings_of_all() -> None:
    rows: list[dict[str, Any]] = [
        {"what": "a", "n": 1234, "s": 0.5},
        {"what": "b", "s": None, "ok": True},
        {"what": "c", "n": 0, "s": 2.0},
    ]
    assert texts(rows) == [
        {"what": "a", "n": "1,234", "s": "0.5", "ok": ""},
        {"what": "b", "n": "", "s": "", "ok": "yes"},
        {"what": "c", "n": "0", "s": "2", "ok": ""},
    ]


def test_a_median_has_its_range() -> None:
    assert median_and_range([3.0, 1.0, 1.5]) == "1.50 (1.00 to 3.00)"
    assert median_and_range([1000.0, 3000.0], ",.0f") == "2,000 (1,000 to 3,000)"


@pytest.mark.parametrize(("count", "total"), [(0, 7), (60, 80), (1234, 1234)])
def test_a_fraction_has_the_interval_of_an_accuracy(count: int, total: int) -> None:
    interval = top1_interval(np.arange(total) < count)
    low, high = 100 * interval.low, 100 * interval.high
    assert fraction(count, total) == f"{100 * count / total:.1f} % ({low:.1f} to {high:.1f}; {count:,} of {total:,})"


def test_a_fraction_of_nothing_is_none() -> None:
    assert fraction(0, 0) == "none"
