"""The settings of probes, each declared once: the command line, the YAML of a study and Python read these models."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator

from penultimate.engine.metrics import METRICS
from penultimate.engine.probe.fitting.solvers import SOLVERS
from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.runtime.device_options import DeviceOptions
from penultimate.engine.runtime.option_types import ALL, Count, ManyShots, listed, one_of
from penultimate.engine.runtime.strict import Strict, one_line

LossName = Annotated[str, one_of("loss", LOSSES)]
MetricName = Annotated[str, one_of("metric", METRICS)]
SolverName = Annotated[str, one_of("solver", SOLVERS)]


class _ProbeFields(Strict):
    """The settings that one probe and many have in common."""

    metric: MetricName | None = None
    """Choose and score by this metric; by default the dataset's own."""

    tol: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Stop when the certified gap to the optimum is at most this fraction of the objective (mean loss + l2/2N |W|^2)
    and the gap expected at most a hundredth of this fraction of l2/2N |W|^2: W within 0.1 % at 1e-4. Other solvers
    read it as their own tolerance."""

    solver: SolverName = "torch"
    """``torch`` (certified), ``cuml`` or ``sklearn``; the same objective."""


class ProbeSettings(_ProbeFields):
    """Everything the result of one probe depends on, apart from the features and the seed.

    Raises ``InputError``, one line, for a value that is not allowed.
    """

    path: RegularizationPath
    """The l2 strengths, on the sum of losses."""

    loss: LossName | None = None
    """``softmax``, ``logistic`` (one-vs-rest) or ``squared_hinge``; None: softmax, or logistic for label matrices."""

    shots: Count | None = None
    """Number of training images a class, drawn by the seed; None: all.

    With a number nothing is refitted on val, which has more images than that.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise one_line(error, origin="probe settings") from error

    def resolved(self, *, multi_label: bool, metric: str) -> dict[str, Any]:
        """Return what a Trial keeps and is found by, JSON-able, with the defaults of a dataset filled in.

        ``metric`` is the dataset's own, ``multi_label`` whether its samples have several labels.
        """
        loss = self.loss or ("logistic" if multi_label else "softmax")
        few = {} if self.shots is None else {"shots": self.shots}
        return few | {
            "loss": loss,
            "metric": self.metric or metric,
            "l2": list(self.path.l2),
            "tol": self.tol,
            "solver": self.solver,
            "objective": "sum of losses + l2/2 ||W||^2, bias free",
        }


class ProbeGrid(_ProbeFields):
    """The settings of several probes: every loss with every number of shots and every seed."""

    losses: Annotated[tuple[LossName | None, ...], BeforeValidator(listed), Field(min_length=1)] = (None,)
    """``softmax``, ``logistic`` (one-vs-rest) or ``squared_hinge``; by default softmax, or logistic where images have
    several labels."""

    l2: str = "1e-6:1e5:45"
    """Strengths on the sum of losses, log-spaced, FROM:TO:HOW_MANY; by default the paper's 45."""

    shots: ManyShots = (ALL,)
    """Training images a class, such as 1,2,5,10; by default all."""

    seeds: Count = 1
    """Subsets drawn for each number of shots."""

    choose_readout: bool = False
    """Choose the readout on val together with the strength, of all a backbone has here, and score test with that one
    alone; by default each readout is a trial of its own."""

    @field_validator("l2")
    @classmethod
    def _is_a_path(cls, text: str) -> str:
        RegularizationPath.parse(text)
        return text

    def settings(self) -> list[tuple[ProbeSettings, int]]:
        """Return the settings of each probe, with its seed."""
        path = RegularizationPath.parse(self.l2)
        shared = {name: getattr(self, name) for name in _ProbeFields.model_fields}
        return [
            (ProbeSettings(path=path, loss=loss, shots=None if shots == ALL else shots, **shared), seed)
            for loss in self.losses
            for shots in self.shots
            for seed in range(1 if shots == ALL else self.seeds)
        ]


def _checked_memory(text: str) -> str:
    if not _MEMORY.fullmatch(text):
        raise ValueError(f"expected a number with a unit, such as 500M or 4G; got {text!r}")
    return text


_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([KMGT])i?B?", re.IGNORECASE)


class ProbeJob(ProbeGrid, DeviceOptions):
    """All options of ``penultimate probe`` besides the store and the trial log."""

    memory: Annotated[str, AfterValidator(_checked_memory)] | None = None
    """Stream features that take more than this, such as 500M or 4G; by default all are held in memory."""

    @property
    def resources(self) -> "ProbeResources":
        """Return the resources that the probes run on."""
        return ProbeResources(device=self.device, memory_bytes=None if self.memory is None else num_bytes(self.memory))


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
    """Features that take more than this to fit are streamed from the store; None: they are held in memory."""


ON_CPU = ProbeResources()
"""The default resources: a CPU, with all features in memory."""

Log = Callable[[str], None]
"""A function that is called with each line of progress for the user."""
