"""DeviceOptions: what every computation of the engine is asked about the machine it runs on, declared once."""

from typing import Literal

from penultimate.engine.runtime.option_types import Count
from penultimate.engine.runtime.strict import Strict


class DeviceOptions(Strict):
    """The device that computes."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Device that networks and solvers run on."""


class DecodingOptions(DeviceOptions):
    """The device that computes, and the threads that feed it."""

    workers: Count | None = None
    """Threads that decode images; by default one for each core."""
