"""Compute from trials every number that the report, the figures and ``penultimate analyze RUNS`` show."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from penultimate.engine.analysis.accuracy_table import FEWEST_MODELS, AccuracyTable
from penultimate.engine.analysis.analysis import Analysis, analyze
from penultimate.engine.analysis.curves.convergence import (
    BudgetCurve,
    Speed,
    Speedup,
    ThresholdBudget,
    budget_curves,
    speed,
    speedup,
    threshold_budget,
)
from penultimate.engine.analysis.curves.data_size import Crossing, SizeCurve, crossings, size_curves
from penultimate.engine.analysis.curves.depth import ReadoutCurve, layer_of, readout_curves
from penultimate.engine.analysis.jsonable import jsonable
from penultimate.engine.analysis.panel import Panel, main_rows, setting_panels
from penultimate.engine.analysis.published import TRAIN_SIZES
from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.analysis.scoreboard import Contender, Scoreboard, scoreboard
from penultimate.engine.analysis.setting_pairs import SettingPair, setting_pairs
from penultimate.engine.analysis.statistics.adjusted import Correction
from penultimate.engine.analysis.statistics.correlation import NUM_RESAMPLES
from penultimate.store.errors import InputError
from penultimate.store.trials.trial import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeCrossing:
    """A crossing of two curves of metric against images a class, on the same dataset."""

    dataset: str
    first: str
    second: str
    crossing: Crossing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Findings:
    """All results of the trials analysed together."""

    board: Scoreboard
    analyses: Mapping[str, Analysis]
    """Setting -> correlation with ImageNet over the networks whose ImageNet accuracy is known."""

    panels: Mapping[str, Panel]
    """Setting -> the table of results its analysis rests on. Single layers are compared by ``readout_curves`` alone:
    beside other readouts, networks of other depths share few of them, and their pairs would be hundreds."""

    setting_pairs: tuple[SettingPair, ...]
    budget_curves: tuple[BudgetCurve, ...]
    reached: tuple[ThresholdBudget, ...]
    speeds: tuple[Speed, ...]
    speedup: Speedup | None
    readout_curves: tuple[ReadoutCurve, ...]
    """Backbones and datasets of which several readouts were probed."""

    size_curves: tuple[SizeCurve, ...]
    size_crossings: tuple[SizeCrossing, ...]
    notes: tuple[str, ...]
    """One sentence for everything that was left out, with the reason."""

    @property
    def layers(self) -> frozenset[str]:
        """Return the ids of the trials of single layers that ``readout_curves`` compares."""
        return frozenset(score.trial for curve in self.readout_curves for score in curve.layers)

    @property
    def main_rows(self) -> list[ScoreRow]:
        """Return the rows to compare of each dataset (``panel.main_rows``); of single layers those that are best."""
        layers = self.layers
        return [row for row in main_rows(self.board.rows) if row.is_best or row.trial not in layers]

    @property
    def contenders(self) -> list[Contender]:
        """Return the contenders to compare; of single layers those that are best."""
        compared = bool(self.layers)
        return [
            each
            for each in self.board.contenders
            if each.is_best or not (compared and layer_of(each.readout) is not None)
        ]

    def as_json(self) -> dict[str, Any]:
        """Return all numbers as plain values that JSON can hold; NaN becomes None."""
        numbers: dict[str, Any] = jsonable(
            {
                "rows": self.board.row_dicts(),
                "contenders": self.board.contender_dicts(),
                "settings": {setting: analysis.as_json() for setting, analysis in self.analyses.items()},
                "setting_pairs": self.setting_pairs,
                "convergence": {
                    "curves": self.budget_curves,
                    "reached": self.reached,
                    "speeds": self.speeds,
                    "speedup": self.speedup,
                },
                "readouts": self.readout_curves,
                "data_size": {"curves": self.size_curves, "crossings": self.size_crossings},
                "not_converged": [row.trial for row in self.board.rows if not row.converged],
                "notes": self.notes,
            }
        )
        return numbers


def find(
    trials: Sequence[Trial],
    *,
    imagenet: Mapping[str, float] | None = None,
    train_sizes: Mapping[str, int] = TRAIN_SIZES,
    correction: Correction = "sqrt",
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Findings:
    """Analyse ``trials``. ``imagenet`` is that of ``scoreboard``. Raises InputError where there is no trial.

    The correlations and the comparisons of settings rest on the trials of whole training sets at the largest budget
    (``panel``); all trials are on the scoreboard.
    """
    if not trials:
        raise InputError("there is no trial to analyse; `penultimate probe` makes some")
    board = scoreboard(trials, imagenet=imagenet, correction=correction, seed=seed)
    analyses: dict[str, Analysis] = {}
    notes = list(board.notes)
    readouts = readout_curves(trials, seed=seed)
    layers = {score.trial for curve in readouts for score in curve.layers}
    whole = [row for row in board.rows if row.trial not in layers]
    panels = {panel.name: panel for panel in setting_panels(whole)}
    for name, panel in panels.items():
        table = _table(panel)
        if isinstance(table, str):
            notes.append(table)
            continue
        notes += _without_imagenet(panel)
        analyses[name] = analyze(
            table, correction=correction, train_sizes=train_sizes, seed=seed, num_resamples=num_resamples
        )
    budgets = budget_curves(trials)
    when = [threshold_budget(curve) for curve in budgets]
    sizes = size_curves(trials)
    return Findings(
        board=board,
        analyses=analyses,
        panels={name: panels[name] for name in analyses},
        setting_pairs=tuple(setting_pairs(main_rows(whole))),
        budget_curves=tuple(budgets),
        reached=tuple(when),
        speeds=tuple(
            speed([each for each in when if each.method == method]) for method in sorted({each.method for each in when})
        ),
        speedup=speedup(when),
        readout_curves=tuple(readouts),
        size_curves=tuple(sizes),
        size_crossings=tuple(_size_crossings(sizes)),
        notes=tuple(notes),
    )


def _table(panel: Panel) -> AccuracyTable | str:
    """Return the panel's contenders of known ImageNet accuracy; or a sentence why there is nothing to correlate."""
    known = np.flatnonzero(~np.isnan(panel.imagenet_M))
    if len(known) < FEWEST_MODELS or not panel.datasets:
        return (
            f"{panel.name}: no correlation with ImageNet, which needs {FEWEST_MODELS} backbones of known ImageNet "
            f"accuracy and a dataset they share; there are {len(known)} and {len(panel.datasets)}"
        )
    if np.ptp(panel.imagenet_M[known]) == 0:
        return f"{panel.name}: no correlation with ImageNet, whose accuracy is the same for all {len(known)} backbones"
    return AccuracyTable(
        models=tuple(panel.labels[m] for m in known),
        datasets=panel.dataset_labels,
        imagenet_M=panel.imagenet_M[known],
        accuracy_MD=panel.accuracy_MD[known],
        unit="fraction (from trials)",
        num_test_D=panel.num_test_D,
    )


def _without_imagenet(panel: Panel) -> list[str]:
    unknown = [name for name, top1 in zip(panel.labels, panel.imagenet_M, strict=True) if np.isnan(top1)]
    if not unknown:
        return []
    return [f"{panel.name}: {', '.join(unknown)} left out of the correlation: ImageNet accuracy not known"]


def _size_crossings(curves: Sequence[SizeCurve]) -> list[SizeCrossing]:
    """Find the crossings between every two settings of one backbone on the same images."""
    by_cell: defaultdict[tuple[str, str, str], list[SizeCurve]] = defaultdict(list)
    for curve in curves:
        by_cell[curve.images, curve.backbone, curve.metric].append(curve)
    return [
        SizeCrossing(dataset=first.dataset, first=first.label, second=second.label, crossing=crossing)
        for cell in by_cell.values()
        for first, second in combinations(cell, 2)
        for crossing in crossings(first, second)
    ]
