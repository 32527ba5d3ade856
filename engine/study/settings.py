"""What a study does with each dataset and backbone: probes, fine-tuning, training from scratch. Lists multiply."""

from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, field_validator

from penultimate.engine.backbones.timm_backbone import PreprocessKind
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import ProbeSettings
from penultimate.engine.runtime.devices import PrecisionName
from penultimate.engine.study.strict import Strict
from penultimate.engine.train.grid import grid_named
from penultimate.engine.train.learner.network import InitName
from penultimate.engine.train.recipe import LossName
from penultimate.engine.train.settings import TrainSettings, grid_of

ALL: Final = "all"
"""In a list of shots: every training image."""

Count = Annotated[int, Field(ge=1)]


def listed(value: Any) -> Any:
    """One setting is a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _few(value: Any) -> Any:
    if value == ALL or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"expected all, or a number of images a class from 1 up, got {value!r}")


Few = Annotated[int | Literal["all"], BeforeValidator(_few)]

ManyShots = Annotated[tuple[Few, ...], BeforeValidator(listed), Field(min_length=1)]
"""Training images a class, and ``all``."""


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
    preprocess: PreprocessKind = "paper"
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

    def asked(self, init: InitName, *, steps: int | None, shots: Few, seed: int) -> TrainSettings:
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
