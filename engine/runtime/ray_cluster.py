"""Cluster: tasks that do not depend on each other, on Ray's workers; the one module that imports Ray.

A task is a small picklable callable that leaves its outcome on disk and, called again, goes on with what is missing.
That is what makes it safe to call it again after its worker was lost, on another machine or beside itself.
"""

import logging
import os
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from penultimate.engine.runtime.worker_state import WorkerState
from penultimate.store.errors import InputError, PenultimateError, StoreBusyError, UnavailableError

ATTEMPTS = 4
"""Calls of a task before it counts as failed."""

_BUSY_SECONDS = 150.0
"""How long a task waits for the claim of a writer that is gone: two and a half leases of an object store."""

_BUSY_PAUSE_SECONDS = 5.0
"""Between its calls meanwhile."""

_POLL_SECONDS = 0.5


class ProgressReporter(Protocol):
    """What a task may tell the person who waits."""

    def log(self, line: str) -> None:
        """Send a line."""

    def images(self, done: int, total: int) -> None:
        """Say how far this call of the task is: images through, and images it found to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """The process that a task finds itself in."""

    reporter: ProgressReporter
    state: WorkerState
    """What earlier tasks of this process made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One call on a worker."""

    name: str
    """For people."""

    call: Callable[[Worker], Any]

    num_images: int = 0
    """Images it stands for, those included that are done already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResources:
    """What a worker has for each task."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """How a task ended."""

    task: Task
    value: Any
    error: str | None
    """One line; None where it ended well."""

    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far all tasks are together."""

    done: int
    total: int
    """Images."""

    rates: Mapping[str, float]
    """Worker -> images/s since its first one."""


class Cluster:
    """Ray as this process sees it; made by ``cluster_at``."""

    def put(self, value: Any) -> "ObjectReference":
        """Put a large value where all workers read it once a machine."""
        return ObjectReference(ray.put(value))

    def slots(self, resources: TaskResources) -> int:
        """Return how many tasks run at once; UnavailableError where no machine has what one needs."""
        found = sum(_slots(node["Resources"], resources) for node in ray.nodes() if node["Alive"])
        if not found:
            machines = "; ".join(
                f"{node['Resources'].get('CPU', 0):g} CPUs, {node['Resources'].get('GPU', 0):g} GPUs"
                for node in ray.nodes()
                if node["Alive"]
            )
            raise UnavailableError(
                f"a task needs {resources.cpus} CPUs and {resources.gpus} GPUs, and no machine of the cluster has them "
                f"({machines}); ask for less (--task-cpus, --device cpu)"
            )
        return found

    def whole_machine(self, *, gpus: int) -> TaskResources:
        """A task a GPU, each with its part of the machine's CPUs; without GPUs, a task a machine."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        counts = [int(node.get("CPU", 0)) // max(1, int(node.get("GPU", 0)) // gpus if gpus else 1) for node in nodes]
        return TaskResources(cpus=max(1, min(count for count in counts if count)), gpus=gpus)

    def run(
        self,
        tasks: Sequence[Task],
        resources: TaskResources,
        *,
        log: Callable[[str], None],
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Iterator[TaskResult]:
        """Call every task, as many at once as there is room for, and yield each as it ends, well or not.

        A task whose worker was lost or that raised is called again, up to ATTEMPTS times; not one that raised an
        InputError. Calls that are still under way when this is closed are stopped.
        """
        self.slots(resources)
        board = ray.remote(_Board).options(num_cpus=0).remote()
        call = ray.remote(_call).options(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)
        here = os.getcwd()
        waiting = {
            call.remote(task.call, board, number, here): _Attempt(task, number) for number, task in enumerate(tasks)
        }
        try:
            while waiting:
                ended, _ = ray.wait(list(waiting), timeout=_POLL_SECONDS)
                _show(board, tasks, log, progress)
                for reference in ended:
                    attempt = waiting.pop(reference)
                    if (outcome := attempt.outcome(reference)) is not None:
                        yield outcome
                        continue
                    log(f"{attempt.task.name}: {attempt.error}; again, attempt {attempt.number + 1} of {ATTEMPTS}")
                    again = call.remote(attempt.task.call, board, attempt.index, here, attempt.pause)
                    waiting[again] = attempt.next()
            _show(board, tasks, log, progress)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)
            ray.kill(board)


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """A value that the cluster holds."""

    reference: Any

    def get(self) -> Any:
        """Fetch the value to this process."""
        return ray.get(self.reference)


@cache
def _worker_state() -> WorkerState:
    """Return the state of this process, of which a worker has one."""
    return WorkerState()


@contextmanager
def cluster_at(address: str) -> Iterator[Cluster]:
    """Ray at ``address``; ``local``: begun on this machine for as long as this lasts; ``auto``: what there is, else so.

    Raises InputError where there is none at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless somebody asks for it
    # Ray 2.x warns that this will change; a task that asks for no GPU sees none either way.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        ray.init(address=None if address == "auto" else address, **options)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise InputError(
            f"there is no Ray cluster at {address!r} ({' '.join(str(error).split())[:200]}); start one with "
            "`ray start --head`, or use --cluster local"
        ) from error
    with redirect_stdout(sys.stderr):  # Ray's threads print what they notice, and stdout is for data
        try:
            yield Cluster()
        finally:
            ray.shutdown()


@dataclass(slots=True)
class _Attempt:
    """One call of a task."""

    task: Task
    index: int
    """Of the task in the list."""

    number: int = 1
    began: float = 0.0
    """When the task was first busy, by the monotonic clock."""

    error: str = ""
    pause: float = 0.0
    """Seconds before it is called again."""

    def outcome(self, reference: Any) -> TaskResult | None:
        """How the task ended; None where it is to be called again."""
        try:
            returned: _Returned = ray.get(reference)
        except RayError as error:  # the worker, or its machine, is gone
            returned = _Returned(error=f"its worker was lost ({type(error).__name__})")
        if returned.error is None:
            return TaskResult(task=self.task, value=returned.value, error=None, attempts=self.number)
        self.error = returned.error
        if returned.is_busy:
            self.began = self.began or time.monotonic()
            self.pause = _BUSY_PAUSE_SECONDS
            again = time.monotonic() - self.began < _BUSY_SECONDS
        else:
            again = not returned.is_final and self.number < ATTEMPTS
        return None if again else TaskResult(task=self.task, value=None, error=self.error, attempts=self.number)

    def next(self) -> "_Attempt":
        waited = self.pause > 0  # for somebody else: no attempt of its own was used up
        return _Attempt(self.task, self.index, self.number + (not waited), self.began)


@dataclass(frozen=True, slots=True)
class _Returned:
    """What a call of a task came to; errors as text, since not every exception can be sent."""

    value: Any = None
    error: str | None = None
    is_final: bool = False
    is_busy: bool = False


def _call(call: Callable[[Worker], Any], board: Any, index: int, folder: str, pause: float = 0.0) -> _Returned:
    """On a worker, in the folder that relative paths are meant from."""
    time.sleep(pause)
    reporter = _BoardReporter(board, index)
    try:
        os.chdir(folder)
        value = call(Worker(reporter=reporter, state=_worker_state()))
    except StoreBusyError as error:
        return _Returned(error=_line(error), is_busy=True)
    except PenultimateError as error:
        return _Returned(error=_line(error), is_final=isinstance(error, InputError))
    except Exception as error:  # a job of days goes on past what nobody foresaw, and says so at its end
        return _Returned(error=f"{type(error).__name__}: {_line(error)}")
    reporter.flush()
    return _Returned(value=value)


class _BoardReporter:
    """Reports to the board, images at most twice a second."""

    def __init__(self, board: Any, index: int) -> None:
        self._board = board
        self._index = index
        self._told = 0.0
        self._state = (0, 0)

    def log(self, line: str) -> None:
        self._board.log.remote(line)

    def images(self, done: int, total: int) -> None:
        self._state = done, total
        if time.monotonic() - self._told > _POLL_SECONDS or not done:
            self.flush()

    def flush(self) -> None:
        self._told = time.monotonic()
        worker = f"{socket.gethostname()}:{os.getpid()}"
        self._board.images.remote(self._index, worker, self._state, time.time())


class _Board:
    """Where workers write what is to be shown."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._tasks: dict[int, tuple[str, int, int]] = {}
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._images: defaultdict[str, int] = defaultdict(int)

    def log(self, line: str) -> None:
        """Keep a line until it is taken."""
        self._lines.append(line)

    def images(self, index: int, worker: str, state: tuple[int, int], now: float) -> None:
        """How far a worker is with a task."""
        before, done, _ = self._tasks.get(index, ("", 0, 0))
        self._images[worker] += state[0] - (done if before == worker and state[0] else 0)
        self._tasks[index] = worker, *state
        self._first.setdefault(worker, now)
        self._last[worker] = now

    def take(self) -> tuple[list[str], dict[int, tuple[str, int, int]], dict[str, float]]:
        """Lines since the last time, how far each task is, images/s of each worker."""
        lines, self._lines = self._lines, []
        rates = {
            worker: count / (self._last[worker] - self._first[worker])
            for worker, count in self._images.items()
            if count and self._last[worker] > self._first[worker]
        }
        return lines, self._tasks, rates


def _show(board: Any, tasks: Sequence[Task], log: Callable[[str], None], progress: Callable[[Progress], None]) -> None:
    lines, states, rates = ray.get(board.take.remote())
    for line in lines:
        log(line)
    # A task that goes on found fewer images to do than it stands for: the others were done before.
    done = sum(tasks[index].num_images - total + done for index, (_, done, total) in states.items())
    progress(Progress(done=done, total=sum(task.num_images for task in tasks), rates=rates))


def _slots(machine: Mapping[str, float], resources: TaskResources) -> int:
    of_cpus = int(machine.get("CPU", 0) // resources.cpus)
    return min(of_cpus, int(machine.get("GPU", 0) // resources.gpus)) if resources.gpus else of_cpus


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
