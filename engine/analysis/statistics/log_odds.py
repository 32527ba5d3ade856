"""Turn accuracies into log odds, recording how 0 and 1 were treated.

logit(p) = log(p / (1 - p)) (Kornblith et al. 2019, section 3). An accuracy of exactly 0 or 1 has no finite logit; it
is moved inwards by a stated rule, and the result says which values were moved.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from penultimate.store.errors import InputError

PRINTED_HALF_UNIT = 0.0005
"""Distance from 0 or 1 to which an accuracy without a sample count is moved: half the last digit of 12.3 %."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogOdds:
    """Logits of accuracies, finite everywhere an accuracy was given."""

    values: NDArray[np.float64]
    """Log odds, in the shape of the accuracies; NaN where the accuracy was NaN (a missing cell)."""

    moved: NDArray[np.bool_]
    """True where an accuracy of (nearly) 0 or 1 was moved inwards, in the same shape."""

    rule: str
    """Rule by which accuracies were moved, for people; ``"no accuracy was 0 or 1"`` when none was."""


def log_odds(accuracy: ArrayLike, *, num_test: ArrayLike | None = None) -> LogOdds:
    """Return the logits of ``accuracy``, fractions in [0, 1] of any shape.

    With ``num_test`` (broadcast against ``accuracy``; how many test samples each rests on) an accuracy is clipped to
    [0.5 / n, 1 - 0.5 / n], half a sample from the end. Without it, only exact 0 and 1 are moved: to 0.0005 from the
    end, or to half of the distance that the nearest other accuracy keeps, where that is smaller.

    Raises InputError for values outside [0, 1].
    """
    given = np.asarray(accuracy, dtype=np.float64)
    if np.any((given < 0) | (given > 1)):
        worst = given[(given < 0) | (given > 1)].flat[0]
        raise InputError(f"accuracies must be fractions in [0, 1], got {worst!r}; divide percentages by 100")
    if num_test is not None:
        margin = 0.5 / np.broadcast_to(np.asarray(num_test, dtype=np.float64), given.shape)
        kept = np.clip(given, margin, 1 - margin)
        rule = "clipped to [0.5/n, 1 - 0.5/n], n test samples"
    else:
        margin_of_all = _margin_without_counts(given)
        kept = np.where(given == 0, margin_of_all, np.where(given == 1, 1 - margin_of_all, given))
        rule = f"0 and 1 moved inwards by {margin_of_all:.3g}"
    moved = np.asarray((kept != given) & ~np.isnan(given))
    return LogOdds(values=logit(kept), moved=moved, rule=rule if moved.any() else "no accuracy was 0 or 1")


def _margin_without_counts(accuracy: NDArray[np.float64]) -> float:
    inner = accuracy[(accuracy > 0) & (accuracy < 1)]
    nearest = float(np.minimum(inner, 1 - inner).min()) if inner.size else 1.0
    return min(PRINTED_HALF_UNIT, nearest / 2)
