"""Meters of a run: its mean loss since the last reading, and its updates per second."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from penultimate.engine.train.world import World


class LossMean:
    """Means of the training loss, summed on the device so that an update never waits for a number."""

    def __init__(self, device: torch.device) -> None:
        """Begin with no updates; the sums are on ``device``, where the processes of a world can add them up."""
        self._device = device
        self._sums = {name: self._scalar(0.0) for name in ("log", "evaluation")}
        self._counts = {"log": 0, "evaluation": 0}

    def _scalar(self, value: float) -> Tensor:
        return torch.full((), value, dtype=torch.float64, device=self._device)

    def add(self, loss: Tensor) -> None:
        """Add the loss of one update, a scalar on the device."""
        for name, total in self._sums.items():
            self._sums[name] = total + loss
            self._counts[name] += 1

    def take(self, name: str, world: World) -> float:
        """Return the world's mean since ``name`` (``log`` or ``evaluation``) was last taken; NaN without updates."""
        mean = float(world.mean(self._sums[name])) / self._counts[name] if self._counts[name] else float("nan")
        self._sums[name] = torch.zeros_like(self._sums[name])
        self._counts[name] = 0
        return mean

    def state(self, world: World) -> dict[str, dict[str, float]]:
        """Return what a checkpoint holds; every process of the world must call this."""
        return {
            "sums": {name: float(world.mean(total)) for name, total in self._sums.items()},
            "counts": dict(self._counts),
        }

    def restore(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Return to the state that a checkpoint holds."""
        self._sums = {name: self._scalar(value) for name, value in state["sums"].items()}
        self._counts = {name: int(count) for name, count in state["counts"].items()}


class Pace:
    """Updates per second, without evaluations and checkpoints."""

    def __init__(self, step: int) -> None:
        self._first_step = self._lap_step = step
        self._began = self._lap_began = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent inside out of the count."""
        paused = time.monotonic()
        yield
        away = time.monotonic() - paused
        self._began += away
        self._lap_began += away

    def lap(self, step: int) -> float:
        """Return updates per second since the last lap, and begin a new one."""
        now = time.monotonic()
        rate = (step - self._lap_step) / (now - self._lap_began)
        self._lap_step, self._lap_began = step, now
        return rate

    def rate(self, step: int) -> float:
        """Return updates per second since the run was begun or resumed."""
        return (step - self._first_step) / (time.monotonic() - self._began)
