"""FitSettings: the input of every solver of a whole path besides features and labels."""

from dataclasses import dataclass

from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.path import RegularizationPath
from penultimate.store.errors import InputError, UnknownNameError


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """Settings of one fit: strengths, loss, tolerance and device.

    Raises ``UnknownNameError`` for an unknown loss and ``InputError`` for a tolerance that is not positive.
    """

    num_classes: int
    """Number of classes, K; labels are in [0, K)."""

    path: RegularizationPath
    """The l2 strengths, on the sum of losses."""

    loss: str = "softmax"
    """``softmax``, ``logistic`` (one-vs-rest) or ``squared_hinge`` (one-vs-rest)."""

    tol: float = 1e-4
    """Relative tolerance on the objective, > 0: ``solver/newton.py`` has the stopping rule; other solvers their own."""

    device: str = "cpu"
    """``cpu`` or ``cuda``."""

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)
        if not self.tol > 0:
            raise InputError(f"tol must be > 0, got {self.tol!r}")
