"""Numbers of threads: ThreadBudget divides a machine's cores, ``shared_threads`` leaves those that others work on."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from penultimate.engine.runtime.capabilities import all_cores, usable_cores, usable_processors

_MAX_REPLICAS = 16
"""Largest number of replicas. They launch their kernels under one interpreter lock, so with more cores each replica has
several threads instead."""

CPU_BATCH_SIZE = 8
CUDA_BATCH_SIZE = 256
"""Numbers of images a forward pass by default. On a CPU a pass of few images keeps its maps in the cores' caches:
EfficientNet-Lite0 in float32 on 2 cores gives 90 images/s at 8 and 40 at 64 (benchmarks/results/)."""


LOOK_EVERY = 0.2
"""Seconds between two looks at what else the cores do; their clocks tick 100 times a second."""

GLANCES = 3
"""Number of times, a millisecond apart, that others must be found ready to run before the first pass minds them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreadBudget:
    """Numbers of the threads of one extraction."""

    decode: int
    """Number of threads that read, decode and resize."""

    replicas: int
    """Number of batches that a network embeds at once, each on a thread of its own."""

    per_replica: int
    """Number of threads of one replica's kernels (torch's intra-op threads)."""

    def __post_init__(self) -> None:
        if min(self.decode, self.replicas, self.per_replica) < 1:
            raise ValueError(f"each number of threads must be at least one, got {self}")

    @classmethod
    def of(cls, device: str, *, decode: int | None = None, cores: int | None = None) -> "ThreadBudget":
        """Divide ``cores``, by default all usable ones, for networks on ``device``.

        There are ``decode`` threads that decode, by default one a core.

        On a CPU a replica is one core wide. Its kernels then have no barriers at which one core waits for another, so
        that decoding threads may run among them and every core is busy whenever there is work: measured side by side
        on 2 cores, two replicas of one thread give 1.2 to 1.9 times one replica of two. A GPU gets two replicas, each
        with a stream: one copies in or out while the other computes.
        """
        cores = cores or usable_cores()
        if device.startswith("cuda"):
            return cls(decode=decode or cores, replicas=2, per_replica=1)
        replicas = min(cores, _MAX_REPLICAS)
        return cls(decode=decode or cores, replicas=replicas, per_replica=cores // replicas)

    @property
    def alone(self) -> "ThreadBudget":
        """The budget of a network on the CPU that runs while nothing else does: one replica with all the threads."""
        return ThreadBudget(
            decode=self.decode, replicas=1, per_replica=max(self.decode, self.replicas * self.per_replica)
        )

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Within the context, let this thread and those it starts use ``per_replica`` threads in torch's kernels."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.per_replica)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def shared_threads(*, serial: bool = False) -> Iterator[Callable[[], None]]:
    """Within the context, give torch's kernels, and those compiled here, a thread for each core free of other programs.

    Yields a function to call between two passes, which sets the number; it is never more than at first. A pass ends
    with its slowest thread: beside one busy core of two a path took 2.0 times as long as alone, with one thread 1.5.
    With ``serial`` there is one thread in any case.
    """
    before = torch.get_num_threads()
    if serial:
        torch.set_num_threads(1)
    try:
        yield _FreeCores(torch.get_num_threads()).look
    finally:
        torch.set_num_threads(before)


class _FreeCores:
    """The cores that this process may run on and nothing else runs on."""

    def __init__(self, most: int) -> None:
        """Set the first number by what is ready to run; ``most`` is that where nothing else is."""
        self._most = self._threads = most
        if most > 1:
            self._leave(_others_ready(), of=all_cores())
        self._at, self._own, self._busy = time.perf_counter(), time.process_time(), busy_seconds()

    def look(self) -> None:
        """Set the number of threads by what others took since the last look, unless that was just now."""
        now = time.perf_counter()
        if self._most == 1 or self._busy is None or now - self._at < LOOK_EVERY:
            return
        own, busy = time.process_time(), busy_seconds()
        assert busy is not None
        others = (busy - self._busy - (own - self._own)) / (now - self._at)
        self._at, self._own, self._busy = now, own, busy
        self._leave(round(others), of=usable_cores())

    def _leave(self, others: int, *, of: int) -> None:
        """Leave cores to others, of so many."""
        threads = self._most if others <= 0 else min(self._most, max(1, of - others))
        if threads != self._threads:
            torch.set_num_threads(threads)
            self._threads = threads


def busy_seconds(*, stolen: bool = False) -> float | None:
    """Return the seconds in which the usable cores have worked, by Linux's ``/proc/stat`` (proc(5)); None elsewhere.

    Those that a hypervisor gave to other machines are among them if ``stolen``.
    """
    lines = _kernel_statistics()
    if not lines:
        return None
    mine = {f"cpu{number}" for number in usable_processors()}
    rows = [line.split() for line in lines if line.split(" ", 1)[0] in mine]
    # user, nice, system, idle, iowait, irq, softirq, steal
    columns = (1, 2, 3, 6, 7, 8) if stolen else (1, 2, 3, 6, 7)
    return sum(int(row[at]) for row in rows for at in columns) / os.sysconf("SC_CLK_TCK")


def _others_ready() -> int:
    """Return the fewest threads of the whole machine, this one left out, that some glances find ready to run."""
    fewest = 0
    for glance in range(GLANCES):
        if glance:
            time.sleep(0.001)
        ready = next((int(line.split()[1]) for line in _kernel_statistics() if line.startswith("procs_running ")), 1)
        fewest = min(fewest, ready - 1) if glance else ready - 1
        if fewest <= 0:
            return 0
    return fewest


def _kernel_statistics() -> list[str]:
    """Return the lines of Linux's ``/proc/stat`` (proc(5)); none elsewhere."""
    try:
        return Path("/proc/stat").read_text().splitlines()
    except OSError:
        return []


def default_batch_size(device: str) -> int:
    """Return the default number of images a forward pass on ``device``."""
    return CUDA_BATCH_SIZE if device.startswith("cuda") else CPU_BATCH_SIZE
