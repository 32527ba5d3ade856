"""Meters of a run: the mean loss since the last look, and how fast the updates go."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from penultimate.engine.train.world import World


class LossMean:
    """Means of the training loss, summed on the device so that an update never waits for a number."""

    def __init__(self) -> None:
        self._sums = {"log": torch.zeros((), dtype=torch.float64), "evaluation": torch.zeros((), dtype=torch.float64)}
        self._counts = {"log": 0, "evaluation": 0}

    def add(self, loss: Tensor) -> None:
        """The loss of one update, a scalar on any device."""
        for name, total in self._sums.items():
            self._sums[name] = total.to(loss.device) + loss
            self._counts[name] += 1

    def take(self, name: str, world: World) -> float:
        """Mean over the world since ``name`` (``log`` or ``evaluation``) was last taken; NaN if there was no update."""
        mean = float(world.mean(self._sums[name])) / self._counts[name] if self._counts[name] else float("nan")
        self._sums[name] = torch.zeros_like(self._sums[name])
        self._counts[name] = 0
        return mean

    def state(self, world: World) -> dict[str, dict[str, float]]:
        """For a checkpoint; every process must ask."""
        return {
            "sums": {name: float(world.mean(total)) for name, total in self._sums.items()},
            "counts": dict(self._counts),
        }

    def restore(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go back to what ``state`` was taken from."""
        self._sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["sums"].items()}
        self._counts = {name: int(count) for name, count in state["counts"].items()}


class Pace:
    """Updates a second, evaluations and checkpoints not counted."""

    def __init__(self, step: int) -> None:
        self._first_step = self._lap_step = step
        self._began = self._lap_began = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in here is no time of an update."""
        paused = time.monotonic()
        yield
        away = time.monotonic() - paused
        self._began += away
        self._lap_began += away

    def lap(self, step: int) -> float:
        """Updates a second since the last lap."""
        now = time.monotonic()
        rate = (step - self._lap_step) / (now - self._lap_began)
        self._lap_step, self._lap_began = step, now
        return rate

    def rate(self, step: int) -> float:
        """Updates a second since the run was begun or resumed."""
        return (step - self._first_step) / (time.monotonic() - self._began)
