"""What a study does with each dataset and backbone: probes, fine-tuning, training from scratch. Lists multiply."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import ProbeSettings
from penultimate.engine.runtime.option_types import ALL, Count, ManyShots, listed
from penultimate.engine.runtime.strict import Strict
from penultimate.engine.train.settings import SearchOptions, TrainSettings
from penultimate.engine.train.sweep import TrainSweep


def is_for(only: str | None, model: str) -> bool:
    """Whether settings with this ``only`` are for ``model``."""
    return only is None or fnmatchcase(model, only)


class Probe(Strict):
    """Linear probes on the features; the fields are those of ``penultimate probe``."""

    only: str | None = None
    """A glob over the backbones' models that this is for; None: all."""

    losses: Annotated[tuple[Literal["softmax", "logistic", "squared_hinge"] | None, ...], BeforeValidator(listed)] = (
        None,
    )
    """None: softmax, or logistic where images have several labels."""

    l2: str = "1e-6:1e5:45"
    tol: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    solver: Literal["torch", "cuml", "sklearn"] = "torch"
    shots: ManyShots = (ALL,)
    seeds: Count = 1
    """Subsets drawn for each number of shots."""

    @field_validator("l2")
    @classmethod
    def _is_a_path(cls, text: str) -> str:
        RegularizationPath.parse(text)
        return text

    def settings(self) -> list[tuple[ProbeSettings, int]]:
        """With the seed, one a trial."""
        path = RegularizationPath.parse(self.l2)
        return [
            (
                ProbeSettings(
                    path=path,
                    loss=loss,
                    tol=self.tol,
                    solver=self.solver,
                    shots=shots if isinstance(shots, int) else None,
                ),
                seed,
            )
            for loss in self.losses
            for shots in self.shots
            for seed in range(self.seeds if isinstance(shots, int) else 1)
        ]


class Train(TrainSweep):
    """Training trials by the paper's protocol; the fields are those of ``penultimate train``."""

    only: str | None = None
    """A glob over the backbones' models that these settings are for; by default all."""


class Pretrain(SearchOptions):
    """How a network is trained from scratch on one of the study's datasets before it is a backbone."""

    dataset: str
    """The dataset to train it on, one of the study's."""

    steps: Count | None = None
    """Updates of a run; by default the grid's."""

    def settings(self, *, seed: int) -> TrainSettings:
        """Return the settings of its one trial."""
        same = {name: getattr(self, name) for name in SearchOptions.model_fields}
        return TrainSettings(**same, init="random", steps=self.steps, seed=seed)
