"""The settings of probes, each declared once: the command line, the YAML of a study and Python read these models."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator

from penultimate.engine.metrics import METRICS
from penultimate.engine.probe.fitting.solvers import SOLVERS
from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.transform import TransformName
from penultimate.engine.runtime.device_options import DeviceOptions
from penultimate.engine.runtime.option_types import ALL, Count, ManyShots, listed, one_of
from penultimate.engine.runtime.strict import Strict, one_line
from penultimate.engine.scoring.scores import CHOICES

LossName = Annotated[str, one_of("loss", LOSSES)]
ChoiceName = Annotated[str, one_of("score", CHOICES)]
MetricName = Annotated[str, one_of("metric", METRICS)]
SolverName = Annotated[str, one_of("solver", SOLVERS)]


Ks = Annotated[tuple[Count, ...], BeforeValidator(listed), Field(min_length=1)]
Temperatures = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(listed), Field(min_length=1)]


class _SharedFields(Strict):
    """The settings that every classifier of stored features has, one or many."""

    metric: MetricName | None = None
    """Choose and score by this metric; by default the dataset's own."""

    choose_by: ChoiceName | None = None
    """Choose on val by this score instead, such as ``log_loss``, ``auroc``, ``macro_f1``, ``brier`` or ``ece``; the
    trial's value stays the metric's."""


class _LinearFields(_SharedFields):
    """The settings that one linear probe and many have in common."""

    class_weight: Literal["balanced"] | None = None
    """``balanced``: every class counts alike, as in scikit-learn, its samples by N / (classes x samples of the class);
    by default every sample does."""

    transform: TransformName = "none"
    """What is done to features first: ``none`` (the paper's), ``l2`` (each sample divided by its norm) or
    ``standardize`` (mean 0 and deviation 1 on train). It is fitted on train alone and kept in the head."""

    tol: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Stop when the certified gap to the optimum is at most this fraction of the objective (mean loss + l2/2N |W|^2)
    and the gap expected at most a hundredth of this fraction of l2/2N |W|^2: W within 0.1 % at 1e-4. Other solvers
    read it as their own tolerance."""

    solver: SolverName = "torch"
    """``torch`` (certified), ``cuml`` or ``sklearn``; the same objective."""


class _OneTrial(_SharedFields):
    """What the settings of one trial have whatever the method; raises ``InputError``, one line, for a bad value."""

    shots: Count | None = None
    """Number of training images a class, drawn by the seed; None: all.

    With a number nothing is fitted again with val, which has more images than that.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise one_line(error, origin="probe settings") from error

    def _shared(self, metric: str) -> dict[str, Any]:
        """Return the part of ``resolved`` that all methods have; what is at its default is left out or filled in."""
        own = self.metric or metric
        shots = {} if self.shots is None else {"shots": self.shots}
        choose_by = {} if self.choose_by in (None, own) else {"choose_by": self.choose_by}
        return shots | choose_by | {"metric": own}


UNSAID = ("class_weight", "transform")
"""Settings that a trial has only where they are not at their default: trials from before they came are still found."""


class ProbeSettings(_OneTrial, _LinearFields):
    """Everything the result of one linear probe depends on, apart from the features and the seed."""

    path: RegularizationPath
    """The l2 strengths, on the sum of losses."""

    loss: LossName | None = None
    """``softmax``, ``logistic`` (one-vs-rest) or ``squared_hinge``; None: softmax, or logistic for label matrices."""

    @property
    def method(self) -> str:
        """Return the method of its trials."""
        return "probe"

    @property
    def grid(self) -> str:
        """Return in words among what val chooses."""
        return f"{len(self.path)} strengths"

    def resolved(self, *, multi_label: bool, metric: str) -> dict[str, Any]:
        """Return what a Trial keeps and is found by, JSON-able, with the defaults of a dataset filled in.

        ``metric`` is the dataset's own, ``multi_label`` whether its samples have several labels.
        """
        return (
            self._shared(metric)
            | {
                "loss": self.loss or ("logistic" if multi_label else "softmax"),
                "l2": list(self.path.l2),
                "tol": self.tol,
                "solver": self.solver,
                "objective": "sum of losses + l2/2 ||W||^2, bias free",
            }
            | {name: value for name in UNSAID if (value := getattr(self, name)) != _default(type(self), name)}
        )


class KnnSettings(_OneTrial):
    """Everything the result of one k-nearest-neighbour classifier depends on, apart from the features and the seed."""

    k: Ks
    """Numbers of neighbours, of which val chooses."""

    temperatures: Temperatures
    """Temperatures of the votes exp(cosine similarity / temperature), of which val chooses."""

    @property
    def method(self) -> str:
        """Return the method of its trials."""
        return "knn"

    @property
    def grid(self) -> str:
        """Return in words among what val chooses."""
        return f"k of {', '.join(map(str, sorted(set(self.k))))} at {len(set(self.temperatures))} temperatures"

    @property
    def candidates(self) -> list[tuple[int, float]]:
        """Return each k with each temperature; first those that average most, of which the first of equals is taken."""
        return [
            (k, temperature)
            for k in sorted(set(self.k), reverse=True)
            for temperature in sorted(set(self.temperatures), reverse=True)
        ]

    def resolved(self, *, multi_label: bool, metric: str) -> dict[str, Any]:
        """Return what a Trial keeps and is found by, as ``ProbeSettings.resolved`` does."""
        return self._shared(metric) | {
            "k": sorted(set(self.k)),
            "temperatures": sorted(set(self.temperatures)),
            "votes": "exp(cosine similarity / temperature)",
        }


FeatureSettings = ProbeSettings | KnnSettings
"""The settings of one trial on stored features, by any method."""

_OF_PROBE, _OF_KNN = ("losses", "l2", "tol", "solver", "class_weight", "transform"), ("k", "temperatures")
"""Options that one method alone reads."""


class ProbeGrid(_LinearFields):
    """The settings of several trials of one method: every loss with every number of shots and every seed."""

    method: Literal["probe", "knn"] = "probe"
    """``probe``: linear, a whole path of strengths. ``knn``: the k most similar training images vote, weighted by
    cosine similarity."""

    losses: Annotated[tuple[LossName | None, ...], BeforeValidator(listed), Field(min_length=1)] = (None,)
    """``softmax``, ``logistic`` (one-vs-rest) or ``squared_hinge``; by default softmax, or logistic where images have
    several labels."""

    l2: str = "1e-6:1e5:45"
    """Strengths on the sum of losses, log-spaced, FROM:TO:HOW_MANY; by default the paper's 45."""

    k: Ks = (5, 10, 20, 50)
    """Of knn: numbers of neighbours, of which val chooses."""

    temperatures: Temperatures = (0.02, 0.07, 0.2)
    """Of knn: a vote weighs exp(similarity / temperature); val chooses the temperature."""

    shots: ManyShots = (ALL,)
    """Training images a class, such as 1,2,5,10; by default all."""

    seeds: Count = 1
    """Subsets drawn for each number of shots."""

    choose_readout: bool = False
    """Choose the readout on val together with the strength (or k), of all a backbone has here, and score test with that
    one alone; by default each readout is a trial of its own."""

    @field_validator("l2")
    @classmethod
    def _is_a_path(cls, text: str) -> str:
        RegularizationPath.parse(text)
        return text

    @model_validator(mode="after")
    def _has_no_other_methods_options(self) -> Self:
        others, other = (_OF_KNN, "knn") if self.method == "probe" else (_OF_PROBE, "probe")
        given = [name for name in others if getattr(self, name) != _default(type(self), name)]
        if given:
            raise ValueError(
                f"{given[0]} is of the method {other}, and the method is {self.method}: leave it away or give "
                f"--method {other}"
            )
        return self

    def settings(self) -> list[tuple[FeatureSettings, int]]:
        """Return the settings of each trial, with its seed."""
        return [
            (settings, seed)
            for each in self._of_all_images()
            for shots in self.shots
            for settings in (each.replace(shots=None if shots == ALL else shots),)
            for seed in range(1 if shots == ALL else self.seeds)
        ]

    def _of_all_images(self) -> list[FeatureSettings]:
        shared: dict[str, Any] = {name: getattr(self, name) for name in _SharedFields.model_fields}
        if self.method == "knn":
            return [KnnSettings(k=self.k, temperatures=self.temperatures, **shared)]
        shared = {name: getattr(self, name) for name in _LinearFields.model_fields}
        shared |= {"path": RegularizationPath.parse(self.l2)}
        return [ProbeSettings(loss=loss, **shared) for loss in self.losses]


def _default(model: type[Strict], name: str) -> Any:
    return model.model_fields[name].default


def _checked_memory(text: str) -> str:
    if not _MEMORY.fullmatch(text):
        raise ValueError(f"expected a number with a unit, such as 500M or 4G; got {text!r}")
    return text


_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([KMGT])i?B?", re.IGNORECASE)


class ProbeJob(ProbeGrid, DeviceOptions):
    """All options of ``penultimate probe`` besides the store and the trial log."""

    memory: Annotated[str, AfterValidator(_checked_memory)] | None = None
    """Stream features that would take more memory than this, such as 500M or 4G; by default half of what is free."""

    keep_path: Annotated[str, AfterValidator(_checked_memory)] = "64M"
    """Keep the weights of each path, at most this much of it, beside its trial: other strengths, metrics or class
    weights on the same features then begin there; 0M keeps none."""

    @property
    def resources(self) -> "ProbeResources":
        """Return the resources that the probes run on."""
        return ProbeResources(
            device=self.device,
            memory_bytes=None if self.memory is None else num_bytes(self.memory),
            path_bytes=num_bytes(self.keep_path),
        )


def num_bytes(text: str) -> int:
    """Return ``500M``, ``4G`` or ``1.5G`` in bytes (powers of 1,024)."""
    number, unit = _MEMORY.fullmatch(text).groups()  # type: ignore[union-attr]  # validated
    return int(float(number) * 1024 ** (1 + "KMGT".index(unit.upper())))


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResources:
    """Device and memory that a probe uses; its result does not depend on them, except for rounding."""

    device: str = "cpu"
    """``cpu`` or ``cuda``."""

    memory_bytes: int | None = None
    """Features that take more than this to fit are streamed from the store; None: half of what is free then."""

    path_bytes: int = 64 << 20
    """Memory, on the disk, of the path that is kept beside a trial; 0: none is."""


ON_CPU = ProbeResources()
"""The default resources: a CPU, and half of the memory that is free."""

Log = Callable[[str], None]
"""A function that is called with each line of progress for the user."""
