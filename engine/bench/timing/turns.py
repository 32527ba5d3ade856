"""Time contenders in turns: a round runs each once, in an order that rotates, after a round that warms up.

Contenders that take turns meet the same other work of the machine, so that their ratio within a round says more than
their rates. A contender works in steps, so that one that would take minutes is stopped once it had its part of the
time: what it did until then is its lap, marked as not complete.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from penultimate.engine.bench.timing.processor_time import ProcessorClock, ProcessorTime
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.option_types import Count, Positive
from penultimate.engine.runtime.strict import Strict

Steps = Callable[[], Iterable[int]]
"""A function that does the work once, in steps, and yields the number of items that each step did."""

Value = TypeVar("Value")

Progress = Callable[[str, float, float], None]
"""A function called with what is measured now, the seconds so far and the seconds that it may take."""


def no_progress(what: str, done: float, total: float) -> None:
    """Show nothing."""


class TurnOptions(Strict):
    """Options of how long a benchmark takes turns."""

    seconds: Positive = 50.0
    """Seconds to measure for; the warm-up and one round are done in any case, and loading and compiling come before."""

    rounds: Count = 5
    """Rounds after the one that warms up, as far as the seconds allow."""

    def part_of(self, count: int) -> "TurnOptions":
        """Return the options of one of ``count`` measurements that share the seconds."""
        return TurnOptions(seconds=self.seconds / count, rounds=self.rounds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """Something to be timed."""

    name: str
    group: str
    """What it has in common with those it is compared with, such as ``Read, cold``."""

    run: Steps
    """What it does after the last step is not timed."""

    items: int
    """Number of images, rows, strengths or updates of the whole work."""

    warm_up: Steps | None = None
    """What it does to warm up; by default the whole work."""

    prepare: Callable[[], object] = lambda: None
    """Called before each turn; not timed."""

    share: float | None = None
    """Fraction of a round's seconds after which a turn is stopped at its next step; by default an equal part."""

    threads: int = field(default_factory=usable_cores)
    """Number of threads that work at the same time, at most; their waiting is told from their work by it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lap:
    """One turn of a contender."""

    items: int
    """Number of images, rows, strengths or updates that were done."""

    wall_seconds: float

    self_seconds: float
    """Part of the wall-clock time in which processors worked: processor time over threads."""

    other_seconds: float | None
    """Processor time that other programs took of this process's cores meanwhile; None where that is not known."""

    complete: bool
    """False if the turn ended before the work did."""

    @property
    def waiting_seconds(self) -> float:
        """Return the rest of the wall-clock time: waiting for a disk, a device, a lock, or for others' work."""
        return self.wall_seconds - self.self_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Laps:
    """All turns of one contender."""

    name: str
    group: str
    warm_up: Lap
    rounds: tuple[Lap, ...]

    @property
    def complete(self) -> bool:
        """Return True if no turn was cut short."""
        return all(lap.complete for lap in self.rounds)


def take_turns(
    contenders: Sequence[Contender], options: TurnOptions, *, progress: Progress = no_progress
) -> list[Laps]:
    """Run every contender once to warm up, then in rounds; return the laps of each, in the given order.

    Every round may take an equal part of ``options.seconds``, and every turn its share of that; a step that takes
    longer is not interrupted. A round that would end late by the time of the last one is not begun. Raises what a
    contender raises.
    """
    began = time.perf_counter()
    round_seconds = options.seconds / (1 + options.rounds)

    def turn(contender: Contender, number: int) -> Lap:
        what = f"{contender.name}, {f'round {number}' if number else 'warm-up'}"
        progress(what, time.perf_counter() - began, options.seconds)
        share = 1 / len(contenders) if contender.share is None else contender.share
        return timed(contender, round_seconds * share)

    warm_up = [turn(replace(contender, run=contender.warm_up or contender.run), 0) for contender in contenders]
    rounds: list[list[Lap]] = [[] for _ in contenders]
    for number in range(options.rounds):
        last = sum(laps[-1].wall_seconds for laps in rounds) if number else 0.0
        if number and time.perf_counter() - began + last > options.seconds:
            break
        order = [(number + at) % len(contenders) for at in range(len(contenders))]
        for index in order:
            rounds[index].append(turn(contenders[index], number + 1))
    progress("measured", options.seconds, options.seconds)
    return [
        Laps(name=contender.name, group=contender.group, warm_up=first, rounds=tuple(laps))
        for contender, first, laps in zip(contenders, warm_up, rounds, strict=True)
    ]


def timed(contender: Contender, limit: float = math.inf) -> Lap:
    """Run a contender once, until its work is done or the first step ends after ``limit`` seconds."""
    contender.prepare()
    clock, began, items, seconds = ProcessorClock(), time.perf_counter(), 0, 0.0
    spent: ProcessorTime | None = None
    for count in contender.run():
        items, seconds = items + count, time.perf_counter() - began
        if items >= contender.items:
            spent = clock.read()  # before it ends processes, whose time would be lost
        elif seconds > limit:
            break
    spent = spent or clock.read()
    return Lap(
        items=items,
        wall_seconds=seconds,
        self_seconds=min(seconds, spent.own / contender.threads),
        other_seconds=spent.others,
        complete=items >= contender.items,
    )


def timed_call(call: Callable[[], Value]) -> tuple[Value, Lap]:
    """Call a function once, without a warm-up; return what it returned, and the lap, of one item.

    It is for what takes too long for rounds, or can be done only once.
    """
    returned: list[Value] = []

    def run() -> Iterator[int]:
        returned.append(call())
        yield 1

    lap = timed(Contender(name="call", group="", run=run, items=1))
    return returned[0], lap
