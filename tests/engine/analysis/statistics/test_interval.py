import numpy as np
import pytest
from numpy.typing import NDArray
from statsmodels.stats.proportion import proportion_confint

from penultimate.engine.analysis.statistics.interval import map11_interval, mean_per_class_interval, top1_interval
from penultimate.engine.metrics import map11


def test_top1_is_wilsons_interval() -> None:
    correct = np.arange(80) < 60
    got = top1_interval(correct)
    assert (got.low, got.high) == pytest.approx(proportion_confint(60, 80, method="wilson"))
    assert got.standard_error == pytest.approx(np.sqrt(0.75 * 0.25 / 80))


def test_a_perfect_score_is_not_certain() -> None:
    assert top1_interval(np.ones(50, dtype=bool)).low == pytest.approx(1 / (1 + 1.959964**2 / 50))  # Wilson at p = 1


def test_mean_per_class_error_by_hand() -> None:
    # Class 0: 3 of 4, s^2 = 3/16 / 3 = 1/16. Class 1: 1 of 2, s^2 = 1/4 / 1. Mean 5/8, error sqrt(5/16) / 2.
    got = mean_per_class_interval(np.array([1, 1, 1, 0, 1, 0], dtype=bool), np.array([0, 0, 0, 0, 1, 1]))
    assert got.standard_error == pytest.approx(np.sqrt(5 / 16) / 2)


def test_mean_per_class_error_is_the_spread_over_test_sets() -> None:
    # The variance over 20,000 test sets drawn anew is known to sqrt(2 / 20,000) = 1 %; 4 % is four times that.
    rng = np.random.default_rng(0)
    sizes, accuracy = [3, 10, 40], [0.6, 0.8, 0.95]
    labels = np.repeat(np.arange(3), sizes)
    draws = rng.random((20_000, len(labels))) < np.repeat(accuracy, sizes)
    means = np.mean([draws[:, labels == k].mean(axis=1) for k in range(3)], axis=0)
    estimated = [mean_per_class_interval(draw, labels).standard_error ** 2 for draw in draws[:2_000]]
    assert np.mean(estimated) == pytest.approx(means.var(), rel=0.04)


def test_the_interval_lies_around_the_mean_and_inside_0_and_1() -> None:
    correct = np.arange(100) > 0
    got = mean_per_class_interval(correct, np.arange(100) % 10)
    assert 0 < got.low < 0.99 < got.high < 1


def test_a_class_of_one_sample_adds_to_the_error() -> None:
    labels = np.array([0] * 10 + [1])
    correct = np.array([True] * 9 + [False, True])
    alone = mean_per_class_interval(correct[:10], labels[:10]).standard_error
    assert mean_per_class_interval(correct, labels).standard_error > alone / 2


def test_without_any_error_there_is_no_interval() -> None:
    got = mean_per_class_interval(np.ones(10, dtype=bool), np.arange(10) % 2)
    assert np.isnan(got.low)
    assert got.standard_error == 0


def _several_labels(rng: np.random.Generator, num: int = 300) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    labels = (rng.random((num, 4)) < [0.5, 0.2, 0.1, 0.03]).astype(np.uint8)
    return labels + rng.normal(size=(num, 4)), labels


def test_mean_average_precision_varies_over_drawn_images_as_the_probes_metric_does() -> None:
    rng = np.random.default_rng(0)
    scores, labels = _several_labels(rng)
    scores = scores.round(1)  # ties
    got = map11_interval(scores, labels, map11(scores, labels), seed=0)
    # The same bootstrap, image by image with the probe's own metric: both errors are known to 1 / sqrt(2 x 200) = 5 %.
    draws = rng.integers(300, size=(200, 300))
    spread = np.std([map11(scores[draw], labels[draw]) for draw in draws], ddof=1)
    assert got.standard_error == pytest.approx(spread, rel=0.2)
    assert got.low < map11(scores, labels) < got.high


@pytest.mark.slow
def test_its_interval_covers_the_precision_of_endless_images() -> None:
    # 300 test sets of 300 images: the coverage has standard error 1.3 %; three of them, and some for a small class.
    rng = np.random.default_rng(0)
    truth = map11(*_several_labels(rng, 200_000))
    held = 0
    for seed in range(300):
        scores, labels = _several_labels(rng)
        got = map11_interval(scores, labels, map11(scores, labels), seed=seed)
        held += got.low <= truth <= got.high
    assert held / 300 == pytest.approx(0.95, abs=0.05)
