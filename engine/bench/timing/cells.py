"""Write numbers as a report's tables and sentences show them."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from scipy.stats import binomtest

Row = dict[str, str]
"""Heading -> text of a cell."""


def number(value: float, digits: int = 3) -> str:
    """Return a number with three significant digits, or others, in thousands if it is large; one less if it is tiny."""
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-3 else f"{value:.{digits - 1}g}"


def texts(rows: Sequence[Mapping[str, Any]], *, digits: int = 3) -> list[Row]:
    """Return the rows of a table, with every heading of any row; a cell that a row lacks is empty, as is None.

    Texts stay as they are, and numbers that are not whole have ``digits`` significant digits.
    """

    def text(value: Any) -> str:
        if isinstance(value, bool) or value is None:
            return {True: "yes", False: "no", None: ""}[value]
        return number(value, digits) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value

    headings = dict.fromkeys(heading for row in rows for heading in row)
    return [{heading: text(row.get(heading)) for heading in headings} for row in rows]


def median_and_range(values: Sequence[float], form: str = ".2f") -> str:
    """Return the median of some values, and the least and the most of them in brackets."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def fraction(count: int, total: int, *, decimals: int = 1) -> str:
    """Return ``count`` of ``total`` in per cent, with Wilson's 95 % interval (Wilson 1927) and both counts."""
    if not total:
        return "none"
    interval = binomtest(count, total).proportion_ci(method="wilson")
    value, low, high = (f"{100 * each:.{decimals}f}" for each in (count / total, interval.low, interval.high))
    return f"{value} % ({low} to {high}; {count:,} of {total:,})"
