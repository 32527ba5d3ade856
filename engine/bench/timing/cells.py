"""Write numbers as a report's tables and sentences show them."""

from collections.abc import Sequence
from statistics import median

from scipy.stats import binomtest


def number(value: float) -> str:
    """Return a number with three significant digits, in thousands if it is large."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.2g}"


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
