"""Test whether one of two networks or settings is better than the other.

Two networks on one dataset from their per-sample predictions: the exact binomial test on the samples that only one of
them got right (McNemar) for top-1; for mean per-class accuracy and for VOC accuracy over all classes, a permutation
test that exchanges the two predictions of a sample at random (Kornblith et al. 2019, section 3 and appendix A.1.1).
Two networks over datasets: a paired t-test. Two settings over networks: Wilcoxon's signed rank test and the counts.
"""

# Shapes: N test samples, K classes, P pairs, R resamples, G groups of equal weight.

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, ttest_rel, wilcoxon

from penultimate.store.errors import InputError
from penultimate.store.labels import PRESENT, UNCOUNTED

NUM_RESAMPLES = 100_000
"""Number of resamples of the permutation test (SimCLR, appendix B.8)."""

SIGNIFICANCE = 0.05
"""Largest uncorrected p value of a significant difference; above it two networks tie (Kornblith et al. 2019, figure 2).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """Result of one test of "no difference"."""

    __test__ = False  # not pytest's

    difference: float
    """First minus second, in the unit that was tested; above 0 where the first is better."""

    p_value: float
    """Two-sided p value; NaN where there is none (a single pair, or no difference to rank)."""

    method: str
    """Name of the test, for people."""


def mcnemar_test(correct_a_N: NDArray[np.bool_], correct_b_N: NDArray[np.bool_]) -> Test:
    """Test for equal top-1 accuracy by McNemar's exact test: binomial(1/2) on the samples that only one got right."""
    only_a = int((correct_a_N & ~correct_b_N).sum())
    only_b = int((correct_b_N & ~correct_a_N).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return Test(difference=(only_a - only_b) / len(correct_a_N), p_value=p_value, method="exact McNemar")


def permutation_test(
    difference_N: NDArray[np.float64], *, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> Test:
    """Test for sum(difference_N) = 0 by permutation, exchanging the two predictions of each sample at random.

    ``difference_N`` is what each sample adds to the first network's metric less the second's; exchanging flips its
    sign. Samples of equal size are drawn together: the sum of n random signs is 2 Binomial(n, 1/2) - n, which is
    exact and lets 100,000 resamples of thousands of samples take milliseconds. The p value counts the observed order
    among the resampled, (1 + count) / (1 + R) (Phipson & Smyth 2010), so that it is never 0.
    """
    size_G, count_G = np.unique(np.abs(difference_N[difference_N != 0]), return_counts=True)
    observed = float(difference_N.sum())
    sums_R = np.zeros(num_resamples)
    for size, count in zip(size_G, count_G, strict=True):
        sums_R += size * (2.0 * rng.binomial(count, 0.5, size=num_resamples) - count)
    # The same sum added in another order may differ in its last bits; a tie must count as one.
    slack = 1e-12 * float(size_G @ count_G)
    as_extreme = int((np.abs(sums_R) >= abs(observed) - slack).sum())
    return Test(
        difference=observed,
        p_value=(1 + as_extreme) / (1 + num_resamples),
        method=f"permutation, {num_resamples:,} samples",
    )


def mean_per_class_differences(
    correct_a_N: NDArray[np.bool_], correct_b_N: NDArray[np.bool_], labels_N: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return each sample's part of the difference in mean per-class accuracy: +-1 / (K n_k), or 0 where both agree."""
    class_N, num_K = np.unique(labels_N, return_inverse=True, return_counts=True)[1:]
    signs_N = correct_a_N.astype(np.float64) - correct_b_N
    return np.asarray(signs_N / (len(num_K) * num_K[class_N]))


def all_class_differences(
    scores_a_NK: NDArray[np.floating], scores_b_NK: NDArray[np.floating], labels_NK: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return each sample's part of the difference in accuracy over all classes, for samples with several labels.

    A class counts as right where its logit is above 0 exactly for the images that show it; an entry that is
    ``UNCOUNTED`` counts for neither. Exchanging a sample exchanges its decisions on all classes at once, as they are
    not independent.
    """
    truth_NK, counted_NK = labels_NK == PRESENT, labels_NK != UNCOUNTED
    right_a_N = (((scores_a_NK > 0) == truth_NK) & counted_NK).sum(axis=1)
    right_b_N = (((scores_b_NK > 0) == truth_NK) & counted_NK).sum(axis=1)
    return np.asarray((right_a_N - right_b_N) / counted_NK.sum())


def paired_t_test(first_P: NDArray[np.float64], second_P: NDArray[np.float64]) -> Test:
    """Test two networks' log odds on the same datasets for equal means by a paired t-test; NaN with fewer than two."""
    difference_P = first_P - second_P
    largest = float(np.abs(difference_P).max())
    if len(difference_P) < 2:
        p_value = nan
    elif np.ptp(difference_P) <= 1e-12 * largest:  # all equal up to rounding: t is 0/0 or infinite
        p_value = 1.0 if largest == 0 else 0.0
    else:
        p_value = float(ttest_rel(first_P, second_P).pvalue)
    return Test(difference=float(difference_P.mean()), p_value=p_value, method=f"paired t-test over {len(first_P)}")


def ties(test: Test | None) -> bool | None:
    """Return True where the two are not significantly different; None where there is no test or no p value."""
    return None if test is None or isnan(test.p_value) else test.p_value > SIGNIFICANCE


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingComparison:
    """One setting against another over the same networks and datasets: "better in 179 of 192"."""

    num_better: int
    num_equal: int
    num_pairs: int
    median_difference: float
    """Median of first minus second, in the unit given (log odds)."""

    p_value: float
    """Two-sided p value of Wilcoxon's signed rank test; NaN where every pair is equal."""

    method: str = "Wilcoxon signed rank"


def compare_settings(first_P: NDArray[np.float64], second_P: NDArray[np.float64]) -> SettingComparison:
    """Compare a setting with another, pair by pair.

    scipy takes the exact distribution for up to 50 pairs without ties, every order of signs for up to 13 pairs with
    ties, and the normal approximation otherwise. Raises InputError where there is no pair.
    """
    if len(first_P) != len(second_P) or not len(first_P):
        raise InputError(f"expected pairs of the two settings, got {len(first_P)} and {len(second_P)} values")
    difference_P = first_P - second_P
    p_value = float(wilcoxon(difference_P).pvalue) if np.any(difference_P) else nan
    return SettingComparison(
        num_better=int((difference_P > 0).sum()),
        num_equal=int((difference_P == 0).sum()),
        num_pairs=len(difference_P),
        median_difference=float(np.median(difference_P)),
        p_value=p_value,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct a family of p values by Holm's step-down method (Holm 1979); a NaN stays NaN and is not counted.

    The k-th smallest of n is multiplied by n - k + 1, and none falls below the one before it. Not statsmodels'
    ``multipletests``, which agrees (a test), because each call of it collects all garbage: 0.17 s beside torch, 11 of
    the 13.5 s that a study of 245 trials took.
    """
    corrected = np.array(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(corrected))
    ordered = known[np.argsort(corrected[known], kind="stable")]
    steps = np.arange(len(ordered), 0, -1) * corrected[ordered]
    corrected[ordered] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(p) for p in corrected]
