"""RegularizationPath: the l2 strengths to fit, strongest first."""

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Self

from penultimate.store.errors import InputError

MOST_STRENGTHS = 10_000
"""Largest number of strengths of a spaced path: the paper has 45, and each is a fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegularizationPath:
    """L2 strengths to fit, strongest first, so that solved strengths warm-start weaker ones."""

    l2: tuple[float, ...]
    """Strictly decreasing, finite, > 0; multiplies 1/2 ||W||^2 beside the *sum* of losses: scikit-learn's C = 1/l2."""

    def __post_init__(self) -> None:
        finite = all(math.isfinite(value) for value in self.l2)
        if not self.l2 or not finite or not all(a > b for a, b in pairwise((*self.l2, 0.0))):
            raise InputError(f"l2 must be finite, positive and strictly decreasing, got {self.l2}")

    def __len__(self) -> int:
        return len(self.l2)

    @classmethod
    def paper(cls) -> Self:
        """Return 45 strengths, 1e5 down to 1e-6, equally spaced in the logarithm (Kornblith et al. 2019)."""
        return cls.spaced(1e-6, 1e5, 45)

    @classmethod
    def spaced(cls, low: float, high: float, count: int) -> Self:
        """Return ``count`` log-spaced strengths from ``high`` down to ``low``, both included.

        Each is the nearest float, on every machine: a trial's id depends on it, and NumPy's powers are by their last
        bit others with AVX-512.
        """
        if not (0 < low < high < math.inf and 2 <= count <= MOST_STRENGTHS):
            raise InputError(
                f"expected 0 < low < high and from 2 to {MOST_STRENGTHS:,} strengths, got {low}:{high}:{count}"
            )
        with localcontext(prec=40):
            first, last = (Decimal(repr(float(end))).log10() for end in (high, low))
            exponents = (first + (last - first) * at / (count - 1) for at in range(count))
            return cls(l2=tuple(float(10**exponent) for exponent in exponents))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a text such as ``1e-4:1e2:25`` (log-spaced), one strength, or several with commas.

        >>> RegularizationPath.parse("1e-2:1e2:3").l2
        (100.0, 1.0, 0.01)
        >>> RegularizationPath.parse("0.1,10").l2
        (10.0, 0.1)
        """
        try:
            if ":" in text:
                low, high, count = text.split(":")
                return cls.spaced(float(low), float(high), int(count))
            return cls(l2=tuple(sorted({float(part) for part in text.split(",")}, reverse=True)))
        except InputError:
            raise
        except ValueError as error:
            raise InputError(
                f"expected l2 as low:high:count, a number, or numbers with commas; got {text!r}"
            ) from error
