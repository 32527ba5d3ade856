"""Correlate ImageNet accuracy with transfer accuracy over models, with intervals.

Pearson's r between logit ImageNet accuracy and the mean over datasets of logit transfer accuracy, Spearman's rho beside
it (Kornblith et al. 2019, section 3 and appendix A.1.2), each with intervals over models and over datasets; the
regression line with its 95 % bootstrap band (figure 2); the same for each dataset and for large and small ones.
"""

# Shapes: M models, D datasets, R resamples, G points of the grid a line is drawn on.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress, norm, pearsonr, permutation_test
from scipy.stats import t as student

from penultimate.engine.analysis.statistics.resample import (
    interval_over_datasets,
    interval_over_models,
    pearson,
    spearman,
)
from penultimate.store.errors import InputError

NUM_RESAMPLES = 10_000
"""Bootstrap samples: the Monte Carlo error of a 95 % bound is about 2 % of the interval's width."""

LARGE = 10_000
"""Training images from which the paper calls a dataset large (section 4.3)."""

FEWEST_MODELS = 3
"""Smallest number of models of a correlation: a line through two points always fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """One correlation over models. Intervals are 95 %; NaN where every model has the same transfer accuracy."""

    pearson_r: float
    p_value: float
    """Two-sided p value of r = 0, from the t distribution with M - 2 degrees of freedom (exact for normal errors)."""

    r_interval_models: tuple[float, float]
    r_interval_datasets: tuple[float, float] | None
    """Interval of r over datasets; None for a single dataset."""

    spearman_rho: float
    rho_p_value: float
    """Two-sided p value of rho = 0, by permutation of the models: exact up to 7 models, 9,999 resamples beyond."""

    rho_interval_models: tuple[float, float]
    rho_interval_datasets: tuple[float, float] | None
    num_models: int
    num_datasets: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Regression:
    """Least-squares line of mean logit transfer accuracy on logit ImageNet accuracy, with its bootstrap band."""

    slope: float
    intercept: float
    x_G: NDArray[np.float64]
    """Grid of logit ImageNet accuracies from the lowest to the highest model."""

    line_G: NDArray[np.float64]
    low_G: NDArray[np.float64]
    """Lower bound of the line at each x on its own, from lines through resampled models."""

    high_G: NDArray[np.float64]


def correlate(
    imagenet_M: NDArray[np.float64],
    transfer_MD: NDArray[np.float64],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Correlation:
    """Correlate log odds on ImageNet with the mean of log odds on D datasets.

    Raises InputError with fewer than three models or where all have the same ImageNet accuracy.
    """
    _check(imagenet_M, transfer_MD)
    mean_M = transfer_MD.mean(axis=1)
    rng = np.random.default_rng(seed)
    over_models = [
        interval_over_models(imagenet_M, mean_M, statistic, rng=rng, num_resamples=num_resamples)
        for statistic in (pearson, spearman)
    ]
    over_datasets = [
        interval_over_datasets(imagenet_M, transfer_MD, statistic, rng=rng, num_resamples=num_resamples)
        if transfer_MD.shape[1] > 1
        else None
        for statistic in (pearson, spearman)
    ]
    constant = bool(np.ptp(mean_M) == 0)
    return Correlation(
        pearson_r=float(pearson(imagenet_M, mean_M)),
        p_value=float("nan") if constant else float(pearsonr(imagenet_M, mean_M).pvalue),
        r_interval_models=over_models[0],
        r_interval_datasets=over_datasets[0],
        spearman_rho=float(spearman(imagenet_M, mean_M)),
        rho_p_value=float("nan") if constant else _rank_p_value(imagenet_M, mean_M, rng),
        rho_interval_models=over_models[1],
        rho_interval_datasets=over_datasets[1],
        num_models=len(imagenet_M),
        num_datasets=transfer_MD.shape[1],
    )


def correlate_each(
    imagenet_M: NDArray[np.float64],
    transfer_MD: NDArray[np.float64],
    datasets: Sequence[str],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Correlation]:
    """Correlate each dataset on its own; the results are keyed by its name."""
    return {
        name: correlate(imagenet_M, transfer_MD[:, [d]], seed=seed, num_resamples=num_resamples)
        for d, name in enumerate(datasets)
    }


def correlate_by_size(
    imagenet_M: NDArray[np.float64],
    transfer_MD: NDArray[np.float64],
    datasets: Sequence[str],
    train_sizes: Mapping[str, int],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, tuple[tuple[str, ...], Correlation]]:
    """Correlate datasets under ``LARGE`` training images (``small``) and the others (``large``) separately.

    Returns the names of each group's datasets and their correlation. Datasets whose size is not known are in neither;
    a group without datasets is absent.
    """
    groups = {
        "small": [d for d, name in enumerate(datasets) if train_sizes.get(name, LARGE) < LARGE],
        "large": [d for d, name in enumerate(datasets) if train_sizes.get(name, 0) >= LARGE],
    }
    return {
        group: (
            tuple(datasets[d] for d in columns),
            correlate(imagenet_M, transfer_MD[:, columns], seed=seed, num_resamples=num_resamples),
        )
        for group, columns in groups.items()
        if columns
    }


def regression_band(
    imagenet_M: NDArray[np.float64],
    transfer_M: NDArray[np.float64],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    num_points: int = 100,
) -> Regression:
    """Fit the regression line and its pointwise 95 % band from resampled models.

    Percentiles of the resampled lines about their median, widened by sqrt(M / (M - 2)) t(M - 2) / 1.96 as the plain
    ones are too narrow for few models (Hesterberg 2015, section 4.1, with the degrees of freedom of a line): at 8
    models they hold the true line in 88 % of studies. Resamples of a single model, without a line, are left out.
    """
    _check(imagenet_M, transfer_M[:, None])
    fit = linregress(imagenet_M, transfer_M)
    x_G = np.linspace(imagenet_M.min(), imagenet_M.max(), num_points)
    pick_RM = np.random.default_rng(seed).integers(len(imagenet_M), size=(num_resamples, len(imagenet_M)))
    x_RM, y_RM = imagenet_M[pick_RM], transfer_M[pick_RM]
    defined = np.ptp(x_RM, axis=1) > 0
    x_RM, y_RM = x_RM[defined], y_RM[defined]
    centered_RM = x_RM - x_RM.mean(axis=1, keepdims=True)
    slope_R = (centered_RM * y_RM).sum(axis=1) / (centered_RM**2).sum(axis=1)
    lines_RG = y_RM.mean(axis=1)[:, None] + slope_R[:, None] * (x_G - x_RM.mean(axis=1)[:, None])
    low_G, middle_G, high_G = np.quantile(lines_RG, [0.025, 0.5, 0.975], axis=0)
    freedom = len(imagenet_M) - 2
    widen = np.sqrt(len(imagenet_M) / freedom) * student.ppf(0.975, freedom) / norm.ppf(0.975)
    line_G = fit.intercept + fit.slope * x_G
    return Regression(
        slope=float(fit.slope),
        intercept=float(fit.intercept),
        x_G=x_G,
        line_G=line_G,
        low_G=line_G + widen * (low_G - middle_G),
        high_G=line_G + widen * (high_G - middle_G),
    )


def _rank_p_value(x_M: NDArray[np.float64], y_M: NDArray[np.float64], rng: np.random.Generator) -> float:
    result = permutation_test(
        (x_M,),
        lambda x, axis: spearman(np.moveaxis(x, axis, -1), y_M),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=9_999,
        rng=rng,
    )
    return float(result.pvalue)


def _check(imagenet_M: NDArray[np.float64], transfer_MD: NDArray[np.float64]) -> None:
    if len(imagenet_M) != len(transfer_MD) or len(imagenet_M) < FEWEST_MODELS:
        raise InputError(
            f"a correlation needs at least {FEWEST_MODELS} models, each with ImageNet and transfer accuracy; "
            f"got {len(imagenet_M)} and {len(transfer_MD)}"
        )
    if np.ptp(imagenet_M) == 0:
        raise InputError(f"all {len(imagenet_M)} models have the same ImageNet accuracy; nothing can correlate with it")
