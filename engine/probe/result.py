"""Probe: a fitted linear head, with the SolveReport that says how far from its optimum it can be."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Shapes: N samples, D feature dimensions, K classes.


@dataclass(frozen=True, kw_only=True, slots=True)
class SolveReport:
    """Report on the solution at one strength. Objective, gradient and gap are of the *mean* loss, nats per sample."""

    status: str
    """``certified``: the gap is within the tolerance (see ``solver/newton.py``); ``stalled``: no further progress;
    ``step_limit``: out of steps. A solver that certifies nothing says ``uncertified``."""

    steps: int
    """Newton steps at this strength.

    These, passes and seconds include the intermediate strengths before it (``solver/continuation.py``).
    """

    passes: float
    """Passes over the data at the full precision; half a pass is one product with the features."""

    curvature_passes: float
    """Passes over the data for Hessian products, which may run at lower precision."""

    objective: float
    """(sum of losses + l2/2 ||W||^2) / N, with sample weights divided by their sum instead of N."""

    gradient_norm: float
    """2-norm of the gradient of ``objective`` over weights and bias."""

    gap: float
    """Certified bound on ``objective`` minus its optimum (``objective/duality_gap.py``), up to rounding; inf: none."""

    seconds: float
    """Wall-clock time of this strength, an equal part of the whole where several were solved together."""

    precision: str
    """Dtypes of the products for gradients and for the Hessian: ``float64/float64``, ``float32/bfloat16`` or, with a
    float32 as two bfloat16, ``2xbfloat16/bfloat16``."""

    @property
    def certified(self) -> bool:
        """Return True if the gap is within the tolerance."""
        return self.status == "certified"


UNKNOWN = SolveReport(
    status="uncertified",
    steps=0,
    passes=0.0,
    curvature_passes=0.0,
    objective=math.nan,
    gradient_norm=math.nan,
    gap=math.inf,
    seconds=0.0,
    precision="",
)
"""Report of weights that come from elsewhere: what they are worth on the data at hand is not measured yet."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Probe:
    """A linear head at one strength: ``scores = features @ weight_KD.T + bias_K``."""

    weight_KD: NDArray[np.float32]

    bias_K: NDArray[np.float32]
    """Biases, not regularised; -inf, the optimum, for a class without training samples (-1 under the squared hinge)."""

    l2: float
    """Multiplies 1/2 ||W||^2 beside the *sum* of losses: scikit-learn's C = 1 / l2."""

    report: SolveReport

    def scores(self, features_ND: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return decision values (N, K); their softmax, or for one-vs-rest their sigmoid, gives the probabilities."""
        scores_NK: NDArray[np.float32] = np.asarray(features_ND, np.float32) @ self.weight_KD.T + self.bias_K
        return scores_NK
