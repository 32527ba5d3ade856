"""Reliability: how often predictions of a stated probability are right, in bins, and the expected calibration error."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Shapes: N predictions, B bins that hold any.

NUM_BINS = 15
"""Number of bins of equal width, as in Guo et al. 2017."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reliability:
    """Predictions in bins of the probability they were given; empty bins are left out."""

    confidence_B: NDArray[np.float64]
    """Mean probability within the bin."""

    accuracy_B: NDArray[np.float64]
    """Fraction that is right within the bin."""

    count_B: NDArray[np.int64]

    @classmethod
    def of(cls, confidence_N: NDArray[Any], right_N: NDArray[np.bool_]) -> "Reliability":
        """Put predictions into bins by scikit-learn's ``calibration_curve``."""
        from sklearn.calibration import calibration_curve  # slow to import, and not every verb scores

        accuracy_B, confidence_B = calibration_curve(right_N, confidence_N, n_bins=NUM_BINS, strategy="uniform")
        # calibration_curve keeps its counts to itself; these are its bins, right edges within.
        bin_N = np.searchsorted(np.linspace(0, 1, NUM_BINS + 1)[1:-1], confidence_N)
        count_B = np.bincount(bin_N)
        return cls(confidence_B=confidence_B, accuracy_B=accuracy_B, count_B=count_B[count_B > 0])

    @property
    def error(self) -> float:
        """Return the expected calibration error: mean |accuracy - confidence| over predictions (Guo et al., eq. 3)."""
        return float(np.average(np.abs(self.accuracy_B - self.confidence_B), weights=self.count_B))
