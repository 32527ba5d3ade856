"""AuditSettings declares the options of an audit once."""

from typing import Annotated

from pydantic import Field

from penultimate.engine.neighbors.duplicates import Search
from penultimate.engine.neighbors.local_scale import DEFAULT_RATIO
from penultimate.engine.runtime.device_options import DeviceOptions
from penultimate.engine.runtime.strict import Seed


class AuditSettings(DeviceOptions):
    """All options of ``penultimate audit`` besides what is audited and what is written."""

    ratio: Annotated[float, Field(gt=0, lt=1)] = DEFAULT_RATIO
    """Near-duplicates are at most this fraction as far apart as either is from its tenth neighbour."""

    search: Search | None = None
    """``exact`` compares every image with every other, ``projected`` the likely ones only, and says how many it
    misses; by default exact up to 200,000 images."""

    labels: bool = True
    """Check labels by probes that have not seen them (needs ``pip install 'penultimate[audit]'`` and trials)."""

    folds: Annotated[int, Field(ge=2)] = 5
    """Parts into which labelled images are divided; the labels of each are checked by a probe fitted on the others."""

    seed: Seed = 0
    """Seed of the parts, and of what a projected search draws."""
