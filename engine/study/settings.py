"""What a study does with each dataset and backbone: probes, fine-tuning, training from scratch. Lists multiply."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from penultimate.engine.probe.settings import ProbeGrid
from penultimate.engine.runtime.devices import PrecisionName
from penultimate.engine.runtime.fields import ALL, Count, ManyShots, Shots, listed
from penultimate.engine.runtime.strict import Strict
from penultimate.engine.train.grid import grid_named
from penultimate.engine.train.learner.network import InitName
from penultimate.engine.train.recipe import LossName
from penultimate.engine.train.settings import TrainSettings, grid_of


def is_for(only: str | None, model: str) -> bool:
    """Whether settings with this ``only`` are for ``model``."""
    return only is None or fnmatchcase(model, only)


class Probe(ProbeGrid):
    """Linear probes on the features; the fields are those of ``penultimate probe``."""

    only: str | None = None
    """A glob over the backbones' models that this is for; None: all."""


_OF_THE_GRID = ("grid", "learning_rates", "weight_decays")


class TrainFields(Strict):
    """What every training has; the fields are those of ``penultimate train``."""

    grid: str | None = None
    """``paper-finetune``, ``paper-scratch`` or ``quick``; None: learning rate 0.01 without weight decay."""

    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] | None = None
    weight_decays: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """In place of the grid's."""

    batch_size: Count | None = None
    retrain: bool = True
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    loss: LossName | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    auxiliary_head: bool = False
    batch_norm_scale: bool = True
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.08
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    preprocess: Literal["paper", "timm"] = "paper"
    size: Count | None = None
    decoder: Literal["dali", "dali-gpu", "pillow"] | None = None
    precision: PrecisionName = "float32"
    channels_last: bool = True
    compile: bool = False
    eval_every: Count | None = None

    @field_validator("grid")
    @classmethod
    def _grid_is_known(cls, name: str | None) -> str | None:
        if name is not None:
            grid_named(name)
        return name

    def asked(self, init: InitName, *, steps: int | None, shots: Shots, seed: int) -> TrainSettings:
        """The settings of one trial."""
        same = {name: getattr(self, name) for name in TrainFields.model_fields if name not in _OF_THE_GRID}
        return TrainSettings(
            init=init,
            grid=grid_of(self.grid, self.learning_rates, self.weight_decays),
            steps=steps,
            shots=shots if isinstance(shots, int) else None,
            seed=seed,
            **same,
        )


class Train(TrainFields):
    """Training trials by the paper's protocol."""

    only: str | None = None
    """A glob over the backbones' models that this is for; None: all."""

    steps: Annotated[tuple[Count | None, ...], BeforeValidator(listed), Field(min_length=1)] = (None,)
    """Step budgets, each tuned on its own; None: the grid's."""

    shots: ManyShots = (ALL,)
    seeds: Count = 1

    def settings(self, init: InitName, *, seed: int) -> list[TrainSettings]:
        """One a trial: every budget with every number of shots and every seed from ``seed`` up."""
        return [
            self.asked(init, steps=steps, shots=shots, seed=seed + number)
            for steps in self.steps
            for shots in self.shots
            for number in range(self.seeds)
        ]


class Pretrain(TrainFields):
    """How a network is trained from scratch on one of the study's datasets before it is a backbone."""

    dataset: str
    steps: Count | None = None
    """None: the grid's."""
