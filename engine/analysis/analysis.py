"""Analyse a table of accuracies: correlation with ImageNet, models that tie with the best, and their uncertainty.

One analysis is one panel of the paper's figure 2: models by datasets in one setting. ``as_json`` is what
``penultimate analyze --json`` prints.
"""

# Shapes: M models, D datasets.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penultimate.engine.analysis.accuracy_table import AccuracyTable
from penultimate.engine.analysis.jsonable import jsonable
from penultimate.engine.analysis.published import TRAIN_SIZES
from penultimate.engine.analysis.statistics.adjusted import AdjustedAccuracies, Correction, adjusted_accuracies
from penultimate.engine.analysis.statistics.compare import Test, holm, paired_t_test, ties
from penultimate.engine.analysis.statistics.correlation import (
    NUM_RESAMPLES,
    Correlation,
    Regression,
    correlate,
    correlate_by_size,
    correlate_each,
    regression_band,
)
from penultimate.engine.analysis.statistics.log_odds import LogOdds, log_odds


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Analysis:
    """All results for one table of accuracies. Arrays follow the table's order of models and datasets."""

    table: AccuracyTable
    log_odds: LogOdds
    """Log odds of the transfer accuracies, shape (M, D)."""

    imagenet: LogOdds
    """Log odds of the ImageNet accuracies, shape (M,)."""

    adjusted: AdjustedAccuracies
    best: int
    """Index of the model with the largest adjusted mean."""

    against_best: tuple[Test | None, ...]
    """For each model, the paired t-test over datasets against the best model; None for the best itself."""

    against_best_holm: tuple[float, ...]
    """P values of ``against_best``, corrected over the models after Holm; NaN where there is no test."""

    ties_with_best: tuple[bool | None, ...]
    """True where p > 0.05 (uncorrected, as the paper marks them) and for the best itself; None where a single dataset
    allows no test."""

    correlation: Correlation
    by_dataset: Mapping[str, Correlation]
    by_size: Mapping[str, tuple[tuple[str, ...], Correlation]]
    regression: Regression
    seed: int
    num_resamples: int

    def as_json(self) -> dict[str, Any]:
        """Return all numbers as plain values that JSON can hold; NaN becomes None."""
        overall = self.correlation
        numbers: dict[str, Any] = jsonable(
            {
                "pearson_r": overall.pearson_r,
                "spearman_rho": overall.spearman_rho,
                "p_value": overall.p_value,
                "r_interval": overall.r_interval_models,
                "n_models": overall.num_models,
                "n_datasets": overall.num_datasets,
                "models": self._models(),
                "datasets": [{"dataset": name, **_correlation_json(each)} for name, each in self.by_dataset.items()],
                "r_interval_datasets": overall.r_interval_datasets,
                "spearman_p_value": overall.rho_p_value,
                "spearman_interval": overall.rho_interval_models,
                "spearman_interval_datasets": overall.rho_interval_datasets,
                "by_size": {
                    group: {"datasets": datasets, **_correlation_json(each)}
                    for group, (datasets, each) in self.by_size.items()
                },
                "slope": self.regression.slope,
                "intercept": self.regression.intercept,
                "unit": self.table.unit,
                "notes": self.table.notes,
                "log_odds_rule": self.log_odds.rule,
                "moved": self._moved(),
                "correction": self.adjusted.correction,
                "correction_factor": self.adjusted.factor,
                "bootstrap": {"resamples": self.num_resamples, "seed": self.seed, "level": 0.95},
            }
        )
        return numbers

    def _models(self) -> list[dict[str, Any]]:
        return [
            {
                "model": model,
                "imagenet": self.table.imagenet_M[m],
                "mean_log_odds": self.log_odds.values[m].mean(),
                "adjusted_mean": self.adjusted.mean_M[m],
                "standard_error": self.adjusted.standard_error_M[m],
                "ties_with_best": self.ties_with_best[m],
                "is_best": m == self.best,
                "p_value": test.p_value if test else None,
                "p_value_holm": self.against_best_holm[m] if test else None,
                "test": test.method if test else None,
            }
            for m, (model, test) in enumerate(zip(self.table.models, self.against_best, strict=True))
        ]

    def _moved(self) -> list[dict[str, Any]]:
        """Return the cells whose accuracy was 0 or 1, or within half a sample of it, and was therefore moved."""
        cells = [
            {"model": self.table.models[m], "dataset": self.table.datasets[d]}
            for m, d in np.argwhere(self.log_odds.moved)
        ]
        return cells + [
            {"model": self.table.models[m], "dataset": "imagenet"} for m in np.flatnonzero(self.imagenet.moved)
        ]


def analyze(
    table: AccuracyTable,
    *,
    correction: Correction = "sqrt",
    train_sizes: Mapping[str, int] = TRAIN_SIZES,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Analysis:
    """Analyse one table; the same seed gives the same numbers. Raises InputError for what cannot be analysed."""
    logits = log_odds(table.accuracy_MD, num_test=table.num_test_D)
    imagenet = log_odds(table.imagenet_M)
    adjusted = adjusted_accuracies(logits.values, correction=correction)
    best = int(adjusted.mean_M.argmax())
    tests = tuple(
        None if m == best else paired_t_test(logits.values[m], logits.values[best]) for m in range(len(table.models))
    )
    chance = {"seed": seed, "num_resamples": num_resamples}
    return Analysis(
        table=table,
        log_odds=logits,
        imagenet=imagenet,
        adjusted=adjusted,
        best=best,
        against_best=tests,
        against_best_holm=tuple(holm([test.p_value if test else np.nan for test in tests])),
        ties_with_best=tuple(True if test is None else ties(test) for test in tests),
        correlation=correlate(imagenet.values, logits.values, **chance),
        by_dataset=correlate_each(imagenet.values, logits.values, table.datasets, **chance),
        by_size=correlate_by_size(imagenet.values, logits.values, table.datasets, train_sizes, **chance),
        regression=regression_band(imagenet.values, logits.values.mean(axis=1), **chance),
        **chance,
    )


def _correlation_json(correlation: Correlation) -> dict[str, Any]:
    return {
        "pearson_r": correlation.pearson_r,
        "p_value": correlation.p_value,
        "r_interval": correlation.r_interval_models,
        "spearman_rho": correlation.spearman_rho,
        "n_models": correlation.num_models,
    }
