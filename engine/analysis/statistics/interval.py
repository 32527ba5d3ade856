"""Compute the confidence interval of one accuracy on one test set from its per-sample predictions.

It covers the sampling of test images only: the variation over training runs or subsets needs several trials
(``data_size``).
"""

# Shapes: N test samples, K classes, R resamples.

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binomtest, norm

NUM_RESAMPLES = 200
"""Number of resamples of the images for the standard error of a mean average precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A confidence interval of an accuracy, in fractions."""

    low: float
    high: float
    standard_error: float
    level: float
    method: str
    """Name of the method, for people."""


def top1_interval(correct_N: NDArray[np.bool_], *, level: float = 0.95) -> Interval:
    """Return Wilson's score interval (Wilson 1927) of the accuracy; the standard error is the binomial's."""
    num_correct, total = int(correct_N.sum()), len(correct_N)
    wilson = binomtest(num_correct, total).proportion_ci(level, method="wilson")
    accuracy = num_correct / total
    error = sqrt(accuracy * (1 - accuracy) / total)
    return Interval(
        low=float(wilson.low), high=float(wilson.high), standard_error=error, level=level, method="Wilson score"
    )


def mean_per_class_interval(
    correct_N: NDArray[np.bool_], labels_N: NDArray[np.integer], *, level: float = 0.95
) -> Interval:
    """Return the delta-method interval of the mean of the per-class accuracies, symmetric in log odds.

    The classes are fixed and the samples within each are drawn, so the variance is
    sum_k s_k^2 / K^2 with s_k^2 = p_k (1 - p_k) / (n_k - 1), the unbiased estimate for a class of n_k samples (Cochran
    1977, Sampling Techniques, theorem 5.3 for stratified proportions). A class of one sample, which has none, takes
    the mean's p (1 - p). The interval is NaN where the accuracy is 0 or 1 or the error is 0.
    """
    classes_N, num_K = np.unique(labels_N, return_inverse=True, return_counts=True)[1:]
    accuracy_K = np.bincount(classes_N, weights=correct_N) / num_K
    mean = float(accuracy_K.mean())
    variance_K = np.where(num_K > 1, accuracy_K * (1 - accuracy_K) / np.maximum(num_K - 1, 1), mean * (1 - mean))
    error = sqrt(float(variance_K.sum())) / len(num_K)
    return _in_log_odds(mean, error, level, "delta method over classes, symmetric in log odds")


def map11_interval(
    scores_NK: NDArray[np.floating], labels_NK: NDArray[np.integer], value: float, *, seed: int, level: float = 0.95
) -> Interval:
    """Bootstrap images for an interval of the 11-point mean average precision ``value``, symmetric in log odds.

    The standard error is the standard deviation over ``NUM_RESAMPLES`` resamples of images with replacement, known
    to within 5 %. A class without a positive in a resample is left out of it, as in the metric.
    """
    num_images = len(labels_NK)
    draws = np.random.default_rng(seed).multinomial(num_images, np.full(num_images, 1 / num_images), NUM_RESAMPLES)
    precision_KR = np.array(
        [
            _average_precision_11(scores_NK[:, k], labels_NK[:, k] > 0, draws)
            for k in np.flatnonzero((labels_NK > 0).any(axis=0))
        ]
    )
    error = float(np.nanmean(precision_KR, axis=0).std(ddof=1))
    return _in_log_odds(value, error, level, f"bootstrap of images, {NUM_RESAMPLES} samples, symmetric in log odds")


def _average_precision_11(
    scores_N: NDArray[np.floating], positive_N: NDArray[np.bool_], draws_RN: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the 11-point interpolated average precision of each resample, given as counts; NaN without a positive."""
    order = np.argsort(-scores_N, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores_N[order])), len(order) - 1)
    hits_RN = np.cumsum(draws_RN[:, order] * positive_N[order], axis=1)[:, last_of_ties]
    taken_RN = np.cumsum(draws_RN[:, order], axis=1)[:, last_of_ties]
    precision_RN = hits_RN / np.maximum(taken_RN, 1)
    best_RN = np.maximum.accumulate(precision_RN[:, ::-1], axis=1)[:, ::-1]  # at this recall or a higher one
    positives_R = hits_RN[:, -1]
    total_R = np.zeros(len(draws_RN))
    for tenth in range(11):
        first_R = (10 * hits_RN < tenth * positives_R[:, None]).sum(axis=1)
        total_R += best_RN[np.arange(len(draws_RN)), first_R]
    return np.where(positives_R > 0, total_R / 11, nan)


def _in_log_odds(value: float, error: float, level: float, method: str) -> Interval:
    """Return ``value`` +- normal quantile x ``error``, computed in log odds; NaN at 0, at 1 and without error."""
    low = high = nan
    if 0 < value < 1 and error > 0:
        half_width = float(norm.ppf((1 + level) / 2)) * error / (value * (1 - value))
        low, high = (float(expit(logit(value) + side * half_width)) for side in (-1, 1))
    return Interval(low=low, high=high, standard_error=error, level=level, method=method)
