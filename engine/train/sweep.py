"""TrainSweep: settings whose lists multiply into trials; TrainJob: the options of ``penultimate train``."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from penultimate.engine.runtime.option_types import ALL, Count, ManyShots, listed
from penultimate.engine.runtime.strict import Seed
from penultimate.engine.train.learner.network import InitName
from penultimate.engine.train.runs.resources import ResourceSettings
from penultimate.engine.train.settings import SearchOptions, TrainSettings


class TrainSweep(SearchOptions):
    """Trials of every budget with every number of training images and every seed."""

    steps: Annotated[tuple[Count | None, ...], BeforeValidator(listed), Field(min_length=1)] = (None,)
    """Updates of a run, the grid's or 20,000 by default; several are budgets, each tuned on its own."""

    shots: ManyShots = (ALL,)
    """Training images a class, or all; several make a data-size curve. Numbers imply that nothing is retrained."""

    seeds: Count = 1
    """Trials from as many seeds: seed, seed + 1, and so on; the splits stay."""

    def settings(self, init: InitName, *, seed: int) -> list[TrainSettings]:
        """Return the settings of each trial."""
        same = {name: getattr(self, name) for name in SearchOptions.model_fields}
        return [
            TrainSettings(**same, init=init, steps=steps, shots=None if shots == ALL else shots, seed=seed + number)
            for steps in self.steps
            for shots in self.shots
            for number in range(self.seeds)
        ]


class TrainJob(TrainSweep, ResourceSettings):
    """All options of ``penultimate train`` besides images, network and folders."""

    init: InitName = "pretrained"
    """Fine-tune the weights (pretrained), or train from scratch (random)."""

    seed: Seed = 0
    """Seed of all that is drawn at random, and of splits that are not given."""

    def trials(self) -> list[TrainSettings]:
        """Return the settings of each trial."""
        return self.settings(self.init, seed=self.seed)
