"""Measure the processor time of this process and all that it started, and of everything else on the same cores.

Linux tells both in ``/proc`` (proc(5)): ``/proc/<pid>/stat`` of a process, ``/proc/stat`` of a core. Elsewhere only the
time of this process and of children that have ended is known.
"""

import os
import resource
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from penultimate.engine.runtime.threads import busy_seconds

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessorTime:
    """Processor time of a stretch of time, in seconds."""

    own: float
    """User and system time of this process and of those that it started, directly or not."""

    others: float | None
    """Time that others took of the cores this process may run on; None where the system does not tell.

    The clocks tick 100 times a second, so it is never exact.
    """


class ProcessorClock:
    """Counts processor time from when it is made; reading the clocks itself does not count."""

    def __init__(self) -> None:
        self._children, self._cores = _running_children(), busy_seconds(stolen=True)
        self._own = _own()

    def read(self) -> ProcessorTime:
        """Return the processor time so far."""
        own, cores = _own() - self._own, busy_seconds(stolen=True)
        own += _running_children() - self._children
        if cores is None or self._cores is None:
            return ProcessorTime(own=own, others=None)
        return ProcessorTime(own=own, others=max(0.0, cores - self._cores - own))


def _own() -> float:
    """Return the seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _running_children() -> float:
    """Return the seconds of all running processes below this one, with those of their children that have ended."""
    children: dict[int, list[int]] = defaultdict(list)
    seconds: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()  # the name before it may hold anything
        except OSError:  # it has ended
            continue
        pid = int(path.parent.name)
        children[int(fields[1])].append(pid)
        seconds[pid] = sum(map(int, fields[11:15])) / _TICKS  # utime, stime, cutime, cstime
    below, waiting = 0.0, list(children[os.getpid()])
    while waiting:
        pid = waiting.pop()
        below += seconds[pid]
        waiting += children[pid]
    return below
