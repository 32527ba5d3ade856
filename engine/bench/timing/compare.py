"""``bench compare``: tell what became faster or slower between two reports, beyond the spread of their rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Any, Literal

from penultimate.engine.bench.timing.measurement import SECONDS
from penultimate.store.errors import InputError

Verdict = Literal["faster", "slower", "same", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One measurement that both reports have."""

    group: str
    name: str
    unit: str
    before: float
    """Median in ``unit``."""

    after: float
    speed: float
    """Ratio of the speeds, later to earlier: 2 is twice as fast."""

    verdict: Verdict
    """``faster`` or ``slower`` where the ranges of the rounds lie apart, ``same`` where they meet; ``unknown`` where
    one of the two has a single round or a turn that did not end."""

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return {
            "measured": self.group,
            "what": self.name,
            "unit": self.unit,
            "before": self.before,
            "after": self.after,
            "speed": self.speed,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All that two reports of one bench tell together."""

    changes: Sequence[Change]
    remarks: Sequence[str]
    """Sentences of what makes the two less comparable, and of measurements that only one has."""


def compare_reports(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    """Compare two reports, as ``read_report`` returns them.

    Raises InputError unless they are of one bench and have a measurement in common.
    """
    if before["bench"] != after["bench"]:
        raise InputError(
            f"expected two reports of one bench, got one of `bench {before['bench']}` and one of "
            f"`bench {after['bench']}`"
        )
    first, second = _by_name(before), _by_name(after)
    shared = [name for name in first if name in second]
    if not shared:
        raise InputError("the two reports have no measurement in common: were they of other images, models or shapes?")
    changes = [_change(name, first[name], second[name]) for name in shared]
    return Comparison(changes=changes, remarks=[*_differences(before, after), *_chance(changes, first, second)])


def _by_name(report: Mapping[str, Any]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    return {(each["group"], each["name"], each["unit"]): each for each in report["measurements"]}


def _change(name: tuple[str, str, str], first: Mapping[str, Any], second: Mapping[str, Any]) -> Change:
    group, what, unit = name
    old, new = first["values"], second["values"]
    speed = median(old) / median(new) if unit == SECONDS else median(new) / median(old)
    return Change(
        group=group,
        name=what,
        unit=unit,
        before=median(old),
        after=median(new),
        speed=speed,
        verdict=_verdict(first, second, speed),
    )


def _verdict(first: Mapping[str, Any], second: Mapping[str, Any], speed: float) -> Verdict:
    old, new = first["values"], second["values"]
    if min(len(old), len(new)) < 2 or not (first["complete"] and second["complete"]):
        return "unknown"
    if min(new) <= max(old) and min(old) <= max(new):
        return "same"
    return "faster" if speed > 1 else "slower"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    found = []
    for part in ("settings", "machine", "versions"):
        names = dict.fromkeys([*before.get(part, {}), *after.get(part, {})])
        pairs = {name: (before.get(part, {}).get(name), after.get(part, {}).get(name)) for name in names}
        apart = [f"{name} {old} -> {new}" for name, (old, new) in pairs.items() if old != new]
        found += [f"Other {part}: {', '.join(apart)}."] if apart else []
    busy = [when for when, report in (("earlier", before), ("later", after)) if report.get("busy")]
    if busy:
        found.append(f"The machine was busy in the {' and the '.join(busy)} report, so that speeds may not compare.")
    first, second = _by_name(before), _by_name(after)
    for when, mine, others in (("earlier", first, second), ("later", second, first)):
        alone = [f"{group}, {name}" for group, name, unit in mine if (group, name, unit) not in others]
        found += [f"Only in the {when} report: {'; '.join(alone)}."] if alone else []
    return found


def _chance(
    changes: Sequence[Change],
    first: Mapping[tuple[str, str, str], Mapping[str, Any]],
    second: Mapping[tuple[str, str, str], Mapping[str, Any]],
) -> list[str]:
    """Say how often the ranges of equal speeds lie apart: all of one before all of the other, in either order."""
    names = [(each.group, each.name, each.unit) for each in changes if each.verdict != "unknown"]
    if not names:
        return ["One round has no spread: measure with more --seconds or --rounds."]
    fewest = min(names, key=lambda name: len(first[name]["values"]) + len(second[name]["values"]))
    rounds = len(first[fewest]["values"]), len(second[fewest]["values"])
    return [
        f"Ranges of equal speeds lie apart by chance in {2 / comb(sum(rounds), rounds[0]):.1%} of comparisons of "
        f"{rounds[0]} and {rounds[1]} rounds, if rounds are independent."
    ]
