"""GridSearch: images, an initial model and a grid of recipes, with the names of its runs and the id of its trial."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.train.learner.network import InitialModel
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.rows import split_rows
from penultimate.engine.train.search.grid import Grid
from penultimate.store.errors import InputError
from penultimate.store.trials.trial import trial_id

_CHOSEN_BY_GRID = ("learning_rate", "weight_decay", "splits")
_ELSEWHERE_IN_TRIAL = ("network", "weights", "images", "seed")
_WITHOUT_EFFECT = ("eval_every",)
"""Fields that change no weight and no score: budgets are evaluated at intervals of their own, and trials of several
budgets must not look as if other settings differed too."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GridSearch:
    """A search for the settings of ``grid`` with which ``initial`` becomes best on ``images``."""

    images: ImageSet
    initial: InitialModel
    recipe: Recipe
    """Recipe of every run, but for its learning rate and weight decay."""

    grid: Grid
    retrain: bool = True
    """True if the chosen settings are trained again on train + val before test is scored. Not allowed with ``shots``,
    whose runs see k images a class of train and no others."""

    def __post_init__(self) -> None:
        has_val = len(split_rows(self.images, "val")) > 0
        if len(self.grid) > 1 and not has_val:
            raise InputError(f"{self.images.name} has no val split to choose among {len(self.grid)} runs by")
        if self.retrain and self.recipe.shots is not None:
            raise InputError("runs of k images a class are not trained again on train + val; use --no-retrain")

    @property
    def method(self) -> str:
        """Return the trial's method: ``finetune`` or ``scratch``."""
        return "finetune" if self.initial.pretrained else "scratch"

    @property
    def retrains(self) -> bool:
        """Return True if the chosen settings are trained again and there is a val split to add."""
        return self.retrain and len(split_rows(self.images, "val")) > 0

    @property
    def features(self) -> dict[str, str]:
        """Return the trial's features: digests and names of the network and its images."""
        return {
            "dataset": self.images.name,
            "images": self.images.digest,
            "backbone": self.initial.label,
            "weights": self.recipe.weights,
            "preprocess": self.recipe.preprocess.digest,
            "decoder": self.recipe.decoder,
            "precision": self.recipe.precision,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Return the trial's settings. Their names and values make its id: neither may change."""
        fixed = {
            name: value
            for name, value in self.recipe.as_dict().items()
            if name not in (*_CHOSEN_BY_GRID, *_ELSEWHERE_IN_TRIAL, *_WITHOUT_EFFECT)
        }
        return fixed | {
            "metric": self.images.metric,
            "learning_rates": list(self.grid.learning_rates),
            "weight_decays": list(self.grid.weight_decays),
            "retrain": self.retrain,
            "objective": "mean loss + (weight_decay / learning_rate) / 2 ||w||^2",
        }

    @property
    def trial_id(self) -> str:
        """Return the id of the trial this search will give."""
        return trial_id(self.method, self.features, self.settings, self.recipe.seed)

    @property
    def recipes(self) -> list[Recipe]:
        """Return the recipes of the runs to choose among."""
        return self.grid.recipes(self.recipe)

    def folder(self, out: Path, recipe: Recipe) -> Path:
        """Return the folder of one run below ``out``."""
        name = f"{self.images.name}-{self.initial.label}-{self.method}-{recipe.digest}"
        return out / quote(name, safe="-_.")
