"""Resources: what a run uses and its outcome does not depend on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.option_types import Count, listed
from penultimate.engine.runtime.strict import Strict
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.world import World, world_from_launcher

Report = Callable[[Recipe, Mapping[str, Any]], None]
"""Called with the recipe of a run and every event of it (see ``loggers.Row``)."""


def _silent(*told: Any) -> None:
    """Tell nobody."""


class ResourceSettings(Strict):
    """Device, threads and intervals of training."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Device that trains the network."""

    workers: Count | None = None
    """Threads that decode images; by default one for each core."""

    eval_batch_size: Count = 64
    """Images of a forward pass in evaluations."""

    checkpoint_every: Count = 500
    """Updates between checkpoints; evaluations do not wait for one."""

    log_every: Count = 50
    """Updates between log lines, and between checks that the loss is still finite."""

    logs: Annotated[tuple[Literal["tensorboard"], ...], BeforeValidator(listed)] = ()
    """Where progress is logged besides log.jsonl: tensorboard (needs the extra of that name)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Settings of resources, with the devices in use and who is told what happens."""

    world: World
    settings: ResourceSettings = field(default_factory=ResourceSettings)
    report: Report = _silent
    log: Callable[[str], None] = _silent
    """Called with lines for people: what was left out, what is still missing, where results are."""

    @property
    def num_workers(self) -> int:
        """Threads that decode images."""
        return self.settings.workers or usable_cores()


@contextmanager
def open_resources(
    settings: ResourceSettings, *, report: Report = _silent, log: Callable[[str], None] = _silent
) -> Iterator[Resources]:
    """Take the device that the settings name, or all devices of a torchrun; let go of them at the end.

    Raises UnavailableError where a device is not there.
    """
    with world_from_launcher(settings.device) as world:
        yield Resources(world=world, settings=settings, report=report, log=log)
