"""Declare the settings of a study's probes, fine-tuning and training from scratch. Lists multiply."""

from fnmatch import fnmatchcase

from penultimate.engine.probe.settings import ProbeGrid
from penultimate.engine.runtime.option_types import Count
from penultimate.engine.train.settings import SearchOptions, TrainSettings
from penultimate.engine.train.sweep import TrainSweep


def is_for(only: str | None, model: str) -> bool:
    """Return True where settings with the glob ``only`` apply to ``model``."""
    return only is None or fnmatchcase(model, only)


class ProbeSection(ProbeGrid):
    """Linear probes on the features; the fields are those of ``penultimate probe``."""

    only: str | None = None
    """A glob over the backbones' models that this is for; None: all."""


class TrainSection(TrainSweep):
    """Training trials by the paper's protocol; the fields are those of ``penultimate train``."""

    only: str | None = None
    """A glob over the backbones' models that these settings are for; by default all."""


class PretrainSection(SearchOptions):
    """Settings to train a network from scratch on one of the study's datasets before it is used as a backbone."""

    dataset: str
    """The dataset to train it on, one of the study's."""

    steps: Count | None = None
    """Updates of a run; by default the grid's."""

    def settings(self, *, seed: int) -> TrainSettings:
        """Return the settings of its one trial."""
        same = {name: getattr(self, name) for name in SearchOptions.model_fields}
        return TrainSettings(**same, init="random", steps=self.steps, seed=seed)
