"""Resources of a run, on which its result does not depend."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.device_options import DecodingOptions
from penultimate.engine.runtime.option_types import Count, listed
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.world import World, world_from_launcher

EventCallback = Callable[[Recipe, Mapping[str, Any]], None]
"""Called with the recipe of a run and every event of it (see ``loggers.Row``)."""


def _silent(*told: Any) -> None:
    """Ignore the event."""


class ResourceSettings(DecodingOptions):
    """Device, threads and intervals of training."""

    eval_batch_size: Count = 64
    """Images of a forward pass in evaluations."""

    checkpoint_every: Count = 500
    """Updates between checkpoints; evaluations do not wait for one."""

    log_every: Count = 50
    """Updates between log lines, and between checks that the loss is still finite."""

    logs: Annotated[tuple[Literal["tensorboard"], ...], BeforeValidator(listed)] = ()
    """Loggers of progress besides log.jsonl: tensorboard (needs the extra of that name)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Settings of resources, with the devices in use and the callbacks for progress."""

    world: World
    settings: ResourceSettings = field(default_factory=ResourceSettings)
    report: EventCallback = _silent
    log: Callable[[str], None] = _silent
    """Called with lines for the user: images left out, runs still missing, the folder of the results."""

    @property
    def num_workers(self) -> int:
        """Return the number of threads that decode images."""
        return self.settings.workers or usable_cores()


@contextmanager
def open_resources(
    settings: ResourceSettings, *, report: EventCallback = _silent, log: Callable[[str], None] = _silent
) -> Iterator[Resources]:
    """Take the device that the settings name, or all devices of a torchrun; let go of them at the end.

    Raises UnavailableError where a device is not there.
    """
    with world_from_launcher(settings.device) as world:
        yield Resources(world=world, settings=settings, report=report, log=log)
