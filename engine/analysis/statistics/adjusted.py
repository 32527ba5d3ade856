"""Subtract the difficulty of each dataset from log odds, and compute Morey's standard errors.

Kornblith et al. 2019, section 3: acc(m, d) = x_md - sum_n x_nd / |M|; each model's mean over datasets and the standard
error of that mean, times a correction for |M| models after Morey (2008, Tutorials in Quantitative Methods for
Psychology 4(2), 61-64). Morey's M / (M - 1) corrects the *variance*, so that the factor on the error is its square
root; the paper's text prints M / (M - 1) on the error itself. Both are here by name and the square root is the default.
"""

# Shapes: M models, D datasets.

from dataclasses import dataclass
from math import nan, sqrt
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError, UnknownNameError

Correction = Literal["sqrt", "printed"]
"""``sqrt``: the error times sqrt(M / (M - 1)) (Morey 2008); ``printed``: times M / (M - 1) (the paper's main text)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AdjustedAccuracies:
    """Distance of each model from the models' mean, in log odds; positive where it is better."""

    adjusted_MD: NDArray[np.float64]
    mean_M: NDArray[np.float64]
    """Mean of ``adjusted_MD`` over datasets; the means of all models sum to 0."""

    standard_error_M: NDArray[np.float64]
    """Corrected standard error of ``mean_M`` over datasets; NaN with a single dataset or a single model."""

    correction: Correction
    factor: float
    """Factor of the correction on the plain standard error; NaN with a single model."""


def adjusted_accuracies(log_odds_MD: NDArray[np.float64], *, correction: Correction = "sqrt") -> AdjustedAccuracies:
    """Adjust a complete table of log odds, rows models and columns datasets.

    Raises InputError for a table with missing cells, and UnknownNameError for another correction.
    """
    if correction not in get_args(Correction):
        raise UnknownNameError("correction", correction, get_args(Correction))
    if log_odds_MD.ndim != 2 or 0 in log_odds_MD.shape or not np.isfinite(log_odds_MD).all():
        raise InputError(
            f"expected a complete table of finite log odds (models, datasets), got shape {log_odds_MD.shape} with "
            f"{int((~np.isfinite(log_odds_MD)).sum())} missing; leave out the datasets that some model lacks"
        )
    num_models, num_datasets = log_odds_MD.shape
    adjusted_MD = log_odds_MD - log_odds_MD.mean(axis=0)
    factor = _factor(num_models, correction)
    error_M = (
        np.full(num_models, nan)
        if num_datasets < 2
        else adjusted_MD.std(axis=1, ddof=1) / sqrt(num_datasets) * factor  # NaN factor: NaN error
    )
    return AdjustedAccuracies(
        adjusted_MD=adjusted_MD,
        mean_M=adjusted_MD.mean(axis=1),
        standard_error_M=error_M,
        correction=correction,
        factor=factor,
    )


def _factor(num_models: int, correction: Correction) -> float:
    if num_models < 2:
        return nan
    ratio = num_models / (num_models - 1)
    return sqrt(ratio) if correction == "sqrt" else ratio
