"""Fit a temperature: the one number by which scores are divided so that probabilities fit held-out labels best."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax

from penultimate.engine.scoring.outputs import Outputs
from penultimate.store.errors import InputError
from penultimate.store.labels import PRESENT, UNCOUNTED

# Shapes: N samples, K classes.

RANGE = 1e-3, 1e3
"""Range of temperatures, as multiples of how far apart the scores of a sample are: the median of its range."""


def fit_temperature(outputs: Outputs) -> float | None:
    """Return the temperature, within the range, with the least log loss (Guo et al. 2017, sec. 4.2), to 0.1 %.

    None where no sample is wrong: ever lower temperatures fit better then, and the samples tell of none; and where all
    scores are equal. The loss is the one that the classifier was fitted by: for ``logistic`` that of one class against
    the rest. Samples whose true class has the score -inf count for nothing: no temperature changes their loss. Raises
    ``InputError`` for a squared hinge.
    """
    lowest, highest = (multiple * _scale(outputs) for multiple in RANGE)
    # The loss is convex in 1 / temperature: where it has not risen at the lowest, it never does.
    if lowest == 0 or _loss_at(lowest, outputs) <= _loss_at(2 * lowest, outputs):
        return None
    found = minimize_scalar(
        lambda log_temperature: _loss_at(float(np.exp(log_temperature)), outputs),
        bounds=(np.log(lowest), np.log(highest)),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return float(np.exp(found.x))


def _scale(outputs: Outputs) -> float:
    scores_NK = np.where(np.isfinite(outputs.scores_NK), outputs.scores_NK, np.nan).astype(np.float64)
    if outputs.loss == "softmax":  # which adding a number to all scores of a sample does not change
        return float(np.median(np.nanmax(scores_NK, axis=1) - np.nanmin(scores_NK, axis=1)))
    return float(np.nanmedian(np.abs(scores_NK)))


def _loss_at(temperature: float, outputs: Outputs) -> float:
    return _log_loss(replace(outputs, temperature=temperature))


def _log_loss(outputs: Outputs) -> float:
    losses = [_losses(part) for part in outputs.blocks()]
    finite = np.concatenate([each[np.isfinite(each)] for each in losses])
    return float(finite.mean()) if len(finite) else 0.0


def _losses(outputs: Outputs) -> NDArray[np.float64]:
    scaled_NK = outputs.scores_NK.astype(np.float64) / outputs.temperature
    if outputs.loss == "softmax":
        return np.asarray(-log_softmax(scaled_NK, axis=1)[np.arange(len(outputs.labels)), outputs.labels])
    if not outputs.has_probabilities:
        raise InputError("a squared hinge has no probabilities, and so no temperature")
    labels_NK = outputs.labels if outputs.several else outputs.labels[:, None] == np.arange(scaled_NK.shape[1])
    sign_NK = np.where(labels_NK == PRESENT, 1.0, -1.0)
    return np.asarray(-log_expit(sign_NK * scaled_NK)[labels_NK != UNCOUNTED])
