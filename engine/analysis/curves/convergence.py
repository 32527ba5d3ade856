"""Measure how soon training reaches 90 % of its best odds, fine-tuned and from scratch.

Kornblith et al. 2019, section 4.6: one run for each step budget; the budget to 90 % of the maximum *odds* of correct
classification reached at any budget; the geometric mean over datasets, its inter-quartile range, and the ratio of
scratch to fine-tuned (their 17-fold: 19,531 / 1,151 steps). Beside the geometric means stand 95 % intervals over
datasets, Student's of the mean logarithm, which the paper does not give.
"""

# Shapes: B budgets, from the smallest up.

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from penultimate.engine.analysis.statistics.log_odds import log_odds
from penultimate.engine.analysis.variant import variants
from penultimate.store.errors import InputError
from penultimate.store.trials.trial import Trial

FRACTION_OF_BEST = 0.9
"""Fraction of the largest odds at which training counts as converged."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BudgetCurve:
    """Test accuracy of one backbone (and variant) on one dataset by one method, at each budget."""

    dataset: str
    images: str
    backbone: str
    variant: str
    method: str
    steps_B: NDArray[np.float64]
    epochs_B: NDArray[np.float64]
    accuracy_B: NDArray[np.float64]
    """Test accuracies as fractions; the mean where several seeds were trained."""

    num_test: int

    @property
    def line(self) -> str:
        """Return ``method`` or ``method (variant)``."""
        return self.method + (f" ({self.variant})" if self.variant else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdBudget:
    """The first budget of one curve that reached the threshold, in steps and in epochs."""

    dataset: str
    images: str
    backbone: str
    variant: str
    method: str
    steps: float
    epochs: float
    at_smallest_budget: bool
    """True where the smallest budget tried reached it already, so that the budget is an upper bound."""

    at_largest_budget: bool
    """True where only the largest budget tried reached it: the odds, and with them the threshold, may go on rising."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Geometric mean, its interval, and quartiles (linear interpolation) of steps and epochs over one method's curves.

    An interval of one curve is NaN.
    """

    method: str
    num_curves: int
    steps: float
    steps_interval: tuple[float, float]
    steps_quartiles: tuple[float, float]
    epochs: float
    epochs_interval: tuple[float, float]
    epochs_quartiles: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Speedup:
    """Geometric mean of the ratio of steps, and of epochs, from scratch to fine-tuned, over datasets and backbones."""

    steps: float
    steps_interval: tuple[float, float]
    """95 % interval over the pairs; NaN for one pair."""

    epochs: float
    epochs_interval: tuple[float, float]
    num_pairs: int
    is_lower_bound: bool
    """True where fine-tuning may be faster than this by any factor, and not slower: a curve from scratch reached the
    threshold at its largest budget alone, or a fine-tuned one at its smallest already, and none the other way."""


def budget_curves(trials: Iterable[Trial]) -> list[BudgetCurve]:
    """Return the curves of the networks in ``trials`` that were trained on all images with at least two budgets.

    A trial's budget is the ``step`` and ``epoch`` of the last row of its history, where its cosine ended. Raises
    InputError for a trained network without them.
    """
    points: defaultdict[tuple[str, ...], defaultdict[tuple[float, float], list[Trial]]]
    points = defaultdict(lambda: defaultdict(list))
    trained = [t for t in trials if t.method in ("finetune", "scratch") and t.settings.get("shots") is None]
    for trial, variant in zip(trained, variants(trained), strict=True):
        key = (trial.dataset, trial.features["images"], trial.backbone, variant.label, trial.method)
        points[key][_budget(trial)].append(trial)
    return [_curve(key, points[key]) for key in sorted(points) if len(points[key]) > 1]


def _budget(trial: Trial) -> tuple[float, float]:
    last = trial.history[-1] if trial.history else {}
    if "step" not in last or "epoch" not in last:
        raise InputError(
            f"trial {trial.id} of {trial.backbone} on {trial.dataset} has no step and epoch in the last row of its "
            f"history, found {sorted(last)}; without them its convergence cannot be told"
        )
    return float(last["step"]), float(last["epoch"])


def _curve(key: tuple[str, ...], points: Mapping[tuple[float, float], Sequence[Trial]]) -> BudgetCurve:
    budgets = sorted(points)
    dataset, images, backbone, variant, method = key
    return BudgetCurve(
        dataset=dataset,
        images=images,
        backbone=backbone,
        variant=variant,
        method=method,
        steps_B=np.array([steps for steps, _ in budgets]),
        epochs_B=np.array([epochs for _, epochs in budgets]),
        accuracy_B=np.array([np.mean([trial.value for trial in points[budget]]) for budget in budgets]),
        num_test=min(trial.num_test for budget in budgets for trial in points[budget]),
    )


def reaches_fraction(accuracy_B: ArrayLike, *, num_test: int, fraction: float = FRACTION_OF_BEST) -> NDArray[np.bool_]:
    """Return which budgets (B,) have odds of at least ``fraction`` times the largest odds at any budget.

    Odds p / (1 - p), with an accuracy of 1 or 0 clipped to half a test sample from it (``log_odds``).
    """
    odds_B = np.exp(log_odds(accuracy_B, num_test=num_test).values)
    reached_B: NDArray[np.bool_] = odds_B >= fraction * odds_B.max()
    return reached_B


def first_to_fraction(accuracy_B: ArrayLike, *, num_test: int, fraction: float = FRACTION_OF_BEST) -> int:
    """Return the index of the first budget that ``reaches_fraction``."""
    return int(np.argmax(reaches_fraction(accuracy_B, num_test=num_test, fraction=fraction)))


def threshold_budget(curve: BudgetCurve, *, fraction: float = FRACTION_OF_BEST) -> ThresholdBudget:
    """Return the first budget of ``curve`` whose odds are at least ``fraction`` times its largest odds."""
    first = first_to_fraction(curve.accuracy_B, num_test=curve.num_test, fraction=fraction)
    return ThresholdBudget(
        dataset=curve.dataset,
        images=curve.images,
        backbone=curve.backbone,
        variant=curve.variant,
        method=curve.method,
        steps=float(curve.steps_B[first]),
        epochs=float(curve.epochs_B[first]),
        at_smallest_budget=first == 0,
        at_largest_budget=first == len(curve.steps_B) - 1,
    )


def speed(curves: Sequence[ThresholdBudget]) -> Speed:
    """Return the geometric mean and quartiles over curves of one method. Raises InputError for several methods."""
    methods = {curve.method for curve in curves}
    if len(methods) != 1:
        raise InputError(f"expected curves of one method, got {len(curves)} of {sorted(methods)}")
    steps, epochs = np.array([c.steps for c in curves]), np.array([c.epochs for c in curves])
    mean_steps, steps_interval = geometric_mean(steps)
    mean_epochs, epochs_interval = geometric_mean(epochs)
    return Speed(
        method=methods.pop(),
        num_curves=len(curves),
        steps=mean_steps,
        steps_interval=steps_interval,
        steps_quartiles=_quartiles(steps),
        epochs=mean_epochs,
        epochs_interval=epochs_interval,
        epochs_quartiles=_quartiles(epochs),
    )


def speedup(curves: Sequence[ThresholdBudget]) -> Speedup | None:
    """Return how many times the steps and epochs of fine-tuning training from scratch takes.

    Over the pairs of dataset and backbone that were trained both ways; None where there are none. A pair with several
    curves a method, of several variants, counts with their geometric means.
    """
    by_pair: defaultdict[tuple[str, str], defaultdict[str, list[ThresholdBudget]]]
    by_pair = defaultdict(lambda: defaultdict(list))
    for curve in curves:
        by_pair[curve.images, curve.backbone][curve.method].append(curve)
    pairs = [(of["finetune"], of["scratch"]) for of in by_pair.values() if of["finetune"] and of["scratch"]]
    if not pairs:
        return None
    ratios = [(speed(scratch), speed(tuned)) for tuned, scratch in pairs]
    steps, steps_interval = geometric_mean([scratch.steps / tuned.steps for scratch, tuned in ratios])
    epochs, epochs_interval = geometric_mean([scratch.epochs / tuned.epochs for scratch, tuned in ratios])
    faster = [c.at_largest_budget for _, scratch in pairs for c in scratch]
    faster += [c.at_smallest_budget for tuned, _ in pairs for c in tuned]
    slower = [c.at_smallest_budget for _, scratch in pairs for c in scratch]
    slower += [c.at_largest_budget for tuned, _ in pairs for c in tuned]
    return Speedup(
        steps=steps,
        steps_interval=steps_interval,
        epochs=epochs,
        epochs_interval=epochs_interval,
        num_pairs=len(pairs),
        is_lower_bound=any(faster) and not any(slower),
    )


def geometric_mean(values: ArrayLike, *, level: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Return the geometric mean of positive values, and Student's interval of their mean logarithm, as values.

    The interval is NaN for one value.
    """
    logs = np.log(np.asarray(values, np.float64))
    mean, num = float(logs.mean()), len(logs)
    if num == 1:
        return float(np.exp(mean)), (float("nan"), float("nan"))
    half = float(student.ppf((1 + level) / 2, num - 1)) * float(logs.std(ddof=1)) / num**0.5
    return float(np.exp(mean)), (float(np.exp(mean - half)), float(np.exp(mean + half)))


def _quartiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low), float(high)
