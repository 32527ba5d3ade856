from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from penultimate.engine.analysis.statistics.correlation import (
    correlate,
    correlate_by_size,
    correlate_each,
    regression_band,
)
from penultimate.engine.analysis.statistics.resample import (
    interval_over_datasets,
    interval_over_models,
    pearson,
    spearman,
)
from penultimate.store.errors import InputError


def _study(
    models: int, datasets: int, *, noise: float = 0.3, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    imagenet = rng.normal(1.0, 0.3, size=models)
    return imagenet, 2 * imagenet[:, None] + rng.normal(size=datasets) + noise * rng.normal(size=(models, datasets))


def test_pearson_by_hand() -> None:
    # Centred: (-1, 0, 1) and (-1, 1, 0); products sum to 1, squares to 2 and 2.
    assert pearson(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(0.5)


def test_spearman_with_ties_agrees_with_scipy() -> None:
    x, y = np.array([1.0, 2, 2, 5, 9]), np.array([3.0, 1, 4, 4, 8])
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)


def test_a_constant_has_no_correlation() -> None:
    assert np.isnan(pearson(np.arange(4.0), np.ones(4)))


def test_the_difficulty_of_datasets_changes_no_correlation() -> None:
    imagenet, transfer = _study(8, 4)
    harder = correlate(imagenet, transfer - np.array([0, 5, 1, 9]), num_resamples=200)
    # Rounding of numbers of size 10.
    assert harder.pearson_r == pytest.approx(correlate(imagenet, transfer, num_resamples=200).pearson_r, abs=1e-12)


def test_spearmans_p_value_of_five_models_is_exact() -> None:
    imagenet, transfer = np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 3, 2, 5, 4])
    rho = spearmanr(imagenet, transfer).statistic
    extreme = [abs(spearmanr(imagenet, order).statistic) >= abs(rho) - 1e-12 for order in permutations(transfer)]
    assert correlate(imagenet, transfer[:, None]).rho_p_value == pytest.approx(np.mean(extreme))


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    study = _study(10, 5)
    assert correlate(*study, seed=3) == correlate(*study, seed=3)
    assert correlate(*study, seed=3).r_interval_models != correlate(*study, seed=4).r_interval_models


def test_intervals_hold_the_correlation_and_narrow_with_more_models() -> None:
    few, many = correlate(*_study(8, 6)), correlate(*_study(80, 6))
    for each in (few, many):
        for low, high in (each.r_interval_models, each.rho_interval_models, each.r_interval_datasets or (1, -1)):
            assert low < high
            assert -1 <= low <= 1
        assert each.r_interval_models[0] <= each.pearson_r <= each.r_interval_models[1]
    assert np.ptp(many.r_interval_models) < np.ptp(few.r_interval_models)


def test_four_models_say_nothing_about_other_models() -> None:
    assert correlate(*_study(4, 3)).r_interval_models == (-1, 1)


def test_one_dataset_has_no_interval_over_datasets() -> None:
    assert correlate(*_study(8, 1)).r_interval_datasets is None


def test_a_perfect_rank_correlation_is_inside_its_interval() -> None:
    x = np.arange(8.0)
    got = correlate(x, np.exp(x)[:, None])
    assert got.spearman_rho == pytest.approx(1)
    assert got.rho_interval_models[1] == 1


def test_two_models_are_refused() -> None:
    with pytest.raises(InputError, match="at least 3 models"):
        correlate(np.array([0.1, 0.2]), np.ones((2, 3)))


def test_equal_imagenet_accuracies_are_refused() -> None:
    with pytest.raises(InputError, match="same ImageNet accuracy"):
        correlate(np.ones(5), np.random.default_rng(0).normal(size=(5, 2)))


def test_models_that_transfer_equally_have_no_correlation_and_no_p_value() -> None:
    got = correlate(np.arange(5.0), np.ones((5, 2)), num_resamples=100)
    assert np.isnan(got.pearson_r)
    assert np.isnan(got.p_value)


def test_datasets_are_split_by_the_papers_ten_thousand_images() -> None:
    imagenet, transfer = _study(6, 3)
    sizes = {"a": 9_999, "b": 10_000}
    got = correlate_by_size(imagenet, transfer, ["a", "b", "unknown"], sizes, num_resamples=100)
    assert {group: datasets for group, (datasets, _) in got.items()} == {"small": ("a",), "large": ("b",)}
    each = correlate_each(imagenet, transfer, ["a", "b", "unknown"], num_resamples=100)
    assert got["small"][1].pearson_r == each["a"].pearson_r


def test_the_regression_line_goes_through_a_line_and_its_band_around_it() -> None:
    x = np.linspace(0, 1, 12)
    exact = regression_band(x, 3 * x - 1, num_resamples=500)
    assert [exact.slope, exact.intercept] == pytest.approx([3, -1])
    assert exact.low_G == pytest.approx(exact.high_G)
    noisy = regression_band(x, 3 * x - 1 + 0.2 * np.random.default_rng(0).normal(size=12), num_resamples=500)
    assert (noisy.low_G < noisy.line_G).all()
    assert (noisy.line_G < noisy.high_G).all()
    middle = len(noisy.x_G) // 2
    width = noisy.high_G - noisy.low_G
    assert width[middle] < min(width[0], width[-1])


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_interval_over_models_covers_the_populations_correlation(rho: float) -> None:
    # 600 studies of 12 models: the coverage has standard error sqrt(0.95 x 0.05 / 600) = 0.009. Tested within four,
    # since the method is approximate; the plain percentile interval has 0.90 (see benchmarks/interval_coverage.py).
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        x = rng.normal(size=12)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=12)
        low, high = interval_over_models(x, y, pearson, rng=rng, num_resamples=600)
        held += low <= rho <= high
    assert held / 600 == pytest.approx(0.95, abs=0.036)


def test_interval_over_datasets_covers_what_other_datasets_would_give() -> None:
    # As above: 600 studies of 8 datasets on the same 14 models.
    rng = np.random.default_rng(0)
    x = rng.normal(size=14)
    truth = 0.8 * x + 0.6 * rng.normal(size=14)
    many = truth[:, None] + 0.4 / np.sqrt(8) * rng.normal(size=(14, 20_000))
    target = float(np.tanh(np.arctanh(pearson(x, many.T)).mean()))
    held = 0
    for _ in range(600):
        transfer = truth[:, None] + 0.4 * rng.normal(size=(14, 8))
        low, high = interval_over_datasets(x, transfer, pearson, rng=rng, num_resamples=600)
        held += low <= target <= high
    assert held / 600 == pytest.approx(0.95, abs=0.036)
