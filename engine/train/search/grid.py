"""Grids of learning rates and weight decays, by name; and the share of one machine in running them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np

from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.runs.run_result import RunResult
from penultimate.store.errors import InputError, NoRunConvergedError, UnknownNameError

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Every learning rate with every weight decay."""

    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    """As ``Recipe.weight_decay``: before the division by the learning rate."""

    steps: int
    """Updates of a run, where none are asked for."""

    batch_size: int
    """Images an update, where none are asked for."""

    def __post_init__(self) -> None:
        if not self.learning_rates or not self.weight_decays:
            raise InputError("a grid needs at least one learning rate and one weight decay")

    def __len__(self) -> int:
        return len(self.learning_rates) * len(self.weight_decays)

    def recipes(self, recipe: Recipe) -> list[Recipe]:
        """``recipe`` with each pair of settings."""
        return [
            replace(recipe, learning_rate=rate, weight_decay=decay)
            for rate in self.learning_rates
            for decay in self.weight_decays
        ]


def _log_spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    """Exponents of ten from ``low`` to ``high``."""
    return tuple(float(f"{value:.6g}") for value in np.logspace(low, high, count))


GRIDS = {
    # SimCLR B.8.2 of fine-tuning, which says it follows Kornblith et al. 2019: 7 rates, 7 decays and none.
    "paper-finetune": Grid(
        learning_rates=_log_spaced(-4, -1, 7),
        weight_decays=(0.0, *_log_spaced(-6, -3, 7)),
        steps=20_000,
        batch_size=256,
    ),
    # The same text of random initialisation: 7 rates, 8 decays.
    "paper-scratch": Grid(
        learning_rates=_log_spaced(-3, 0, 7), weight_decays=_log_spaced(-5, -1.5, 8), steps=20_000, batch_size=256
    ),
    # Ericsson et al. 2021: 4 rates, 4 decays and none, a quarter of the batch and of the steps.
    "quick": Grid(
        learning_rates=_log_spaced(-4, -1, 4),
        weight_decays=(0.0, *_log_spaced(-6, -3, 4)),
        steps=5_000,
        batch_size=64,
    ),
}
"""Name -> grid."""


def grid_named(name: str) -> Grid:
    """The grid, or UnknownNameError with the nearest names."""
    if name not in GRIDS:
        raise UnknownNameError("grid", name, GRIDS)
    return GRIDS[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """The i-th of n parts of a grid; runs are independent, so that n machines may do one each."""

    index: int
    """From 1 to ``count``."""

    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(f"a shard is i/n with i from 1 to n, got {self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """``"2/4"``: the second of four."""
        index, slash, count = text.partition("/")
        if not slash or not index.isdecimal() or not count.isdecimal():
            raise InputError(f"a shard is written i/n, for example 1/4, got {text!r}")
        return cls(index=int(index), count=int(count))

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Its part: every ``count``-th."""
        return list(items[self.index - 1 :: self.count])


WHOLE = Shard(index=1, count=1)


def choose(results: Sequence[RunResult], metric: str) -> RunResult:
    """The run with the best last val score; of equals the lower val loss, then the first. Diverged runs never.

    The last row of its history counts, not the best: no early stopping, as in the paper. Raises NoRunConvergedError
    if every run diverged.
    """
    finished = [result for result in results if result.status == "finished"]
    if not finished:
        rates = sorted({result.recipe["learning_rate"] for result in results})
        raise NoRunConvergedError(
            f"all {len(results)} runs diverged (learning rates {', '.join(f'{rate:g}' for rate in rates)}); "
            "use smaller ones: --learning-rate"
        )
    if len(finished) == 1:
        return finished[0]
    return max(finished, key=lambda result: (result.last[f"val_{metric}"], -result.last["val_loss"]))
