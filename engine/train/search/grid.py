"""Grid: learning rates and weight decays to try, by name."""

from dataclasses import dataclass

import numpy as np

from penultimate.engine.train.recipe import Recipe
from penultimate.store.errors import InputError, UnknownNameError


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Every learning rate with every weight decay."""

    learning_rates: tuple[float, ...]
    """Learning rates at the top of the cosine, > 0."""

    weight_decays: tuple[float, ...]
    """Weight decays as in ``Recipe.weight_decay``: before the division by the learning rate."""

    steps: int
    """Updates of a run, unless the settings give others."""

    batch_size: int
    """Images in an update, unless the settings give another number."""

    def __post_init__(self) -> None:
        if not self.learning_rates or not self.weight_decays:
            raise InputError("a grid needs at least one learning rate and one weight decay")

    def __len__(self) -> int:
        return len(self.learning_rates) * len(self.weight_decays)

    def recipes(self, recipe: Recipe) -> list[Recipe]:
        """Return ``recipe`` with each pair of learning rate and weight decay."""
        return [
            recipe.replace(learning_rate=rate, weight_decay=decay)
            for rate in self.learning_rates
            for decay in self.weight_decays
        ]


def _log_spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return powers of ten, their exponents evenly spaced from ``low`` to ``high``, with six digits."""
    return tuple(float(f"{value:.6g}") for value in np.logspace(low, high, count))


GRIDS = {
    # SimCLR B.8.2 on fine-tuning, which says it follows Kornblith et al. 2019: 7 rates; no decay and 7 decays.
    "paper-finetune": Grid(
        learning_rates=_log_spaced(-4, -1, 7),
        weight_decays=(0.0, *_log_spaced(-6, -3, 7)),
        steps=20_000,
        batch_size=256,
    ),
    # The same text on random initialisation: 7 rates, 8 decays.
    "paper-scratch": Grid(
        learning_rates=_log_spaced(-3, 0, 7), weight_decays=_log_spaced(-5, -1.5, 8), steps=20_000, batch_size=256
    ),
    # Ericsson et al. 2021: 4 rates; no decay and 4 decays; a quarter of the batch and of the steps.
    "quick": Grid(
        learning_rates=_log_spaced(-4, -1, 4),
        weight_decays=(0.0, *_log_spaced(-6, -3, 4)),
        steps=5_000,
        batch_size=64,
    ),
}
"""Name -> grid."""

SINGLE = Grid(learning_rates=(0.01,), weight_decays=(0.0,), steps=20_000, batch_size=256)
"""The one pair that is trained where no grid is named."""


def grid_named(name: str) -> Grid:
    """Return the grid of that name. Raises UnknownNameError with the nearest names."""
    if name not in GRIDS:
        raise UnknownNameError("grid", name, GRIDS)
    return GRIDS[name]
