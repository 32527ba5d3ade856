"""Measurement: one line of a benchmark's report, made of the laps of one contender."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import median
from typing import Any, Self

from penultimate.engine.bench.timing.turns import Lap, Laps

SECONDS = "s"
"""Unit of a measurement that is a duration, of which less is better; all others are rates, of which more is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Values of one contender, one a round, with what makes them comparable to others'."""

    group: str
    """What all contenders of a comparison do, such as ``read, from the page cache``."""

    name: str
    unit: str
    """``s``, or items a second such as ``images/s``."""

    values: tuple[float, ...]
    """One for each round, in ``unit``."""

    warm_up: float
    """Value of the round before, in which everything is built and touched for the first time."""

    items: int
    """Number of images, rows, strengths or updates that a round did; the fewest of all rounds."""

    complete: bool = True
    """False if turns ended before the work did, so that a duration is a lower bound."""

    wall_seconds: float
    """Median of a round's wall-clock seconds."""

    self_seconds: float
    """Median of the part of these in which processors worked: processor time over threads."""

    ratios: tuple[float, ...] = ()
    """Ratio of the speed to that of ``ratio_to``, one for each round."""

    ratio_to: str = ""
    """What ``ratios`` are relative to: another contender, or a ceiling."""

    ratio_bound: str = ""
    """``>`` or ``<`` where a turn of one of the two ended before the work did, and the ratio is a bound."""

    details: Mapping[str, Any] = field(default_factory=dict)
    """Entries for JSON besides these, by timm's names where timm has them."""

    @classmethod
    def of(cls, laps: Laps, *, unit: str, size: float = 1.0, details: Mapping[str, Any] | None = None) -> Self:
        """Return the measurement of some laps; an item counts as ``size`` of the unit's, such as megabytes a row."""

        def value(lap: Lap) -> float:
            return lap.wall_seconds if unit == SECONDS else size * lap.items / lap.wall_seconds

        return cls(
            group=laps.group,
            name=laps.name,
            unit=unit,
            values=tuple(map(value, laps.rounds)),
            warm_up=value(laps.warm_up),
            items=min(lap.items for lap in laps.rounds),
            complete=laps.complete,
            wall_seconds=median(lap.wall_seconds for lap in laps.rounds),
            self_seconds=median(lap.self_seconds for lap in laps.rounds),
            details=details or {},
        )

    @property
    def median(self) -> float:
        """Return the median of the rounds."""
        return median(self.values)

    @property
    def waiting_seconds(self) -> float:
        """Return the wall-clock seconds of a round in which processors did not work for it."""
        return self.wall_seconds - self.self_seconds

    def relative_to(self, ratios: Sequence[float], name: str, *, bound: str = "") -> Self:
        """Return the same measurement with the ratio of its speed to something else's, one for each round."""
        return replace(self, ratios=tuple(ratios), ratio_to=name, ratio_bound=bound)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        ratio = {
            "ratio": median(self.ratios) if self.ratios else None,
            "ratio_range": [min(self.ratios), max(self.ratios)] if self.ratios else None,
            "ratios": list(self.ratios),
            "ratio_to": self.ratio_to or None,
            "ratio_bound": self.ratio_bound or None,
        }
        return {
            "group": self.group,
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "least": min(self.values),
            "most": max(self.values),
            "values": list(self.values),
            "warm_up": self.warm_up,
            "items": self.items,
            "complete": self.complete,
            "wall_seconds": self.wall_seconds,
            "self_seconds": self.self_seconds,
            "waiting_seconds": self.waiting_seconds,
            **(ratio if self.ratios else {}),
            **self.details,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what ``as_dict`` wrote."""
        names = {each.name for each in fields(cls)} - {"details"}
        known = {name: values[name] for name in names if values.get(name) is not None}
        derived = {"median", "least", "most", "waiting_seconds", "ratio", "ratio_range"}
        details = {name: value for name, value in values.items() if name not in names | derived}
        return cls(**known | {name: tuple(known.get(name, ())) for name in ("values", "ratios")}, details=details)


def compared(
    all_laps: Sequence[Laps], *, unit: str, size: float = 1.0, details: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Measurement]:
    """Return a measurement for each contender, with the ratio of its speed to the first one's of its group.

    ``details`` are entries for JSON, by contender.
    """
    firsts: dict[str, Laps] = {}
    found = []
    for laps in all_laps:
        first = firsts.setdefault(laps.group, laps)
        measured = Measurement.of(laps, unit=unit, size=size, details=(details or {}).get(laps.name))
        if laps is not first and (laps.complete or first.complete):  # of two that did not end, nothing follows
            ratios = [a.wall_seconds / b.wall_seconds for a, b in zip(first.rounds, laps.rounds, strict=True)]
            bound = "" if laps.complete == first.complete else ">" if laps.complete else "<"
            measured = measured.relative_to(ratios, first.name, bound=bound)
        found.append(measured)
    return found


def other_cores(all_laps: Sequence[Laps]) -> float | None:
    """Return the number of cores that other programs took, on average over all laps; None where that is not known."""
    return cores_of_others([lap for each in all_laps for lap in each.rounds])


def cores_of_others(laps: Sequence[Lap]) -> float | None:
    """Return the number of cores that other programs took on average over these laps; None where it is not known."""
    known = [lap.other_seconds for lap in laps if lap.other_seconds is not None]
    return sum(known) / sum(lap.wall_seconds for lap in laps) if len(known) == len(laps) else None
