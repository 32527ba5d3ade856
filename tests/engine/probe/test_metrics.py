"""Metrics agree with values worked out by hand and with scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from penultimate.engine.metrics import METRICS, average_precision_11, metric_named, top1, top5
from penultimate.store.errors import InputError, UnknownNameError

RNG = np.random.default_rng(0)
SCORES_NK, LABELS_N = RNG.normal(size=(300, 8)), RNG.integers(8, size=300)


def test_they_agree_with_scikit_learn() -> None:
    assert METRICS["top1"](SCORES_NK, LABELS_N) == pytest.approx(top_k_accuracy_score(LABELS_N, SCORES_NK, k=1))
    assert METRICS["top5"](SCORES_NK, LABELS_N) == pytest.approx(top_k_accuracy_score(LABELS_N, SCORES_NK, k=5))
    expected = balanced_accuracy_score(LABELS_N, SCORES_NK.argmax(1))
    assert METRICS["mean_per_class"](SCORES_NK, LABELS_N) == pytest.approx(expected)


def test_eleven_points_of_a_ranking_worked_out_by_hand() -> None:
    """Ranked + - + -: precision 1 up to recall 1/2 (t = 0 ... 0.5), 2/3 beyond (t = 0.6 ... 1)."""
    found = average_precision_11(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    assert found == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_recall_of_exactly_a_tenth_counts_for_it() -> None:
    """3 of 10 positives found first: precision 1 holds at t = 0.3 too, which 0.1 * 3 in floating point would miss."""
    positive_N = np.array([True] * 3 + [False] * 90 + [True] * 7)
    found = average_precision_11(np.arange(100, 0, -1.0), positive_N)
    assert found == pytest.approx((4 * 1.0 + 7 * 10 / 100) / 11)


def test_the_order_of_equal_scores_does_not_matter() -> None:
    positive_N = RNG.random(50) < 0.3
    scores_N = RNG.integers(5, size=50).astype(float)
    order = RNG.permutation(50)
    assert average_precision_11(scores_N, positive_N) == average_precision_11(scores_N[order], positive_N[order])


def test_a_class_at_minus_infinity_is_never_predicted() -> None:
    scores_NK = SCORES_NK.copy()
    scores_NK[:, 3] = -np.inf
    assert top1(scores_NK, np.full(300, 3)) == 0
    assert top5(scores_NK[:, :5], np.full(300, 3)) == 1  # five classes: all are among the first five


def test_label_matrices_and_single_labels_are_not_confused() -> None:
    with pytest.raises(InputError, match="use map11"):
        top1(SCORES_NK, np.zeros((300, 8), np.uint8))


def test_an_unknown_metric_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean map11"):
        metric_named("map_11")
