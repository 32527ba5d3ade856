"""DeviceOptions declares once the options of the machine that a computation of the engine runs on."""

from typing import Literal

from penultimate.engine.runtime.option_types import Count
from penultimate.engine.runtime.strict import Strict


class DeviceOptions(Strict):
    """Options of the device that computes."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Device that networks and solvers run on."""


class DecodingOptions(DeviceOptions):
    """Options of the device that computes, and of the threads that feed it."""

    workers: Count | None = None
    """Threads that decode images; by default one for each core."""
