"""Interval: how sure one accuracy on one test set is, from its per-sample predictions.

Sampling of test images only: the spread over training runs or subsets needs several trials (see ``data_size``).
"""

# Shapes: N test samples, K classes.

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binomtest, norm


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A confidence interval of an accuracy, in fractions."""

    low: float
    high: float
    standard_error: float
    level: float
    method: str
    """How it was got, in words."""


def top1_interval(correct_N: NDArray[np.bool_], *, level: float = 0.95) -> Interval:
    """Wilson's score interval (Wilson 1927) of the share of correct samples; the error is the binomial's."""
    num_correct, total = int(correct_N.sum()), len(correct_N)
    wilson = binomtest(num_correct, total).proportion_ci(level, method="wilson")
    share = num_correct / total
    error = sqrt(share * (1 - share) / total)
    return Interval(
        low=float(wilson.low), high=float(wilson.high), standard_error=error, level=level, method="Wilson score"
    )


def mean_per_class_interval(
    correct_N: NDArray[np.bool_], labels_N: NDArray[np.integer], *, level: float = 0.95
) -> Interval:
    """Delta-method interval of the mean over classes of per-class accuracy, symmetric in log odds.

    The classes are fixed and the samples within each are drawn, so the variance is
    sum_k s_k^2 / K^2 with s_k^2 = p_k (1 - p_k) / (n_k - 1), the unbiased estimate for a class of n_k samples (Cochran
    1977, Sampling Techniques, theorem 5.3 for stratified proportions). A class of one sample, which has none, takes
    the mean's p (1 - p). The interval is NaN where the accuracy is 0 or 1 or the error is 0.
    """
    classes_N, num_K = np.unique(labels_N, return_inverse=True, return_counts=True)[1:]
    share_K = np.bincount(classes_N, weights=correct_N) / num_K
    mean = float(share_K.mean())
    spread_K = np.where(num_K > 1, share_K * (1 - share_K) / np.maximum(num_K - 1, 1), mean * (1 - mean))
    error = sqrt(float(spread_K.sum())) / len(num_K)
    low = high = nan
    if 0 < mean < 1 and error > 0:
        reach = float(norm.ppf((1 + level) / 2)) * error / (mean * (1 - mean))
        low, high = (float(expit(logit(mean) + side * reach)) for side in (-1, 1))
    return Interval(
        low=low, high=high, standard_error=error, level=level, method="delta method over classes, symmetric in log odds"
    )
