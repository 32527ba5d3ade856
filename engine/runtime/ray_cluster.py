"""Run independent tasks on the workers of a Ray cluster; this is the one module that imports Ray.

A task is a small picklable callable that leaves its result on disk and, called again, goes on with what is missing.
That makes it safe to call it again after its worker was lost, on another machine or beside itself.
"""

import logging
import os
import re
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
"""Number of calls of a task before it counts as failed."""

_BUSY_SECONDS = 150.0
"""Seconds that a task waits for the claim of a lost writer: two and a half leases of an object store."""

_BUSY_PAUSE_SECONDS = 5.0
"""Seconds between the calls of a task that waits for a claim."""

_POLL_SECONDS = 0.5


class ProgressReporter(Protocol):
    """The interface by which a task reports to the person who waits."""

    def log(self, line: str) -> None:
        """Send a line."""

    def images(self, done: int, total: int) -> None:
        """Report how far this call of the task is: the images it has done, and those it found to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """The process that a task runs in."""

    reporter: ProgressReporter
    state: WorkerState
    """Values that earlier tasks of this process made, such as loaded networks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One callable that is to be called on a worker."""

    name: str
    """Name for people."""

    call: Callable[[Worker], Any]

    num_images: int = 0
    """Number of images of the task, those included that are done already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResources:
    """The resources that a worker has for each task."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """The result of a task that ended, well or not."""

    task: Task
    value: Any
    error: str | None
    """Error message of one line; None where the task ended well."""

    attempts: int
    """Number of calls that were made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The progress of all tasks together."""

    done: int
    """Number of images that are done."""

    total: int
    """Number of images of all tasks."""

    rates: Mapping[str, float]
    """Worker -> images/s since its first image."""


class Cluster:
    """A connection to a Ray cluster, made by ``cluster_at``."""

    def put(self, value: Any) -> "ObjectReference":
        """Store a large value in the cluster, so that it is sent to each machine only once."""
        return ObjectReference(ray.put(value))

    def slots(self, resources: TaskResources) -> int:
        """Return how many tasks run at once; raise UnavailableError where no machine has the resources for one."""
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
        """Return resources for one task a GPU, each with a part of the machine's CPUs; without GPUs one a machine."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if gpus:  # a machine without them, such as a head node, runs none of the tasks
            machines = [machine for machine in machines if machine.get("GPU", 0) >= gpus]
        tasks = [int(machine.get("GPU", 0)) // gpus if gpus else 1 for machine in machines]
        counts = [int(machine.get("CPU", 0)) // count for machine, count in zip(machines, tasks, strict=True)]
        return TaskResources(cpus=max(1, min((count for count in counts if count), default=1)), gpus=gpus)

    def run(
        self,
        tasks: Sequence[Task],
        resources: TaskResources,
        *,
        log: Callable[[str], None],
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Iterator[TaskResult]:
        """Call every task, as many at once as resources allow, and yield each result as it ends, well or not.

        A task whose worker was lost or that raised is called again, up to ATTEMPTS times, unless it raised an
        InputError. Calls that are still running when this generator is closed are stopped.
        """
        self.slots(resources)
        board = ray.remote(_Board).options(num_cpus=0).remote()
        options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_retries": 0}
        if resources.gpus:
            # CUDA sees the GPUs that a process was given at first for as long as it lives, and Ray gives each task
            # other ones: so a process runs one task. It is Ray's own default, but for options that are set later.
            options["max_calls"] = 1
        call = ray.remote(**options)(_call)
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
    """Return the one WorkerState of this process."""
    return WorkerState()


@contextmanager
def cluster_at(address: str) -> Iterator[Cluster]:
    """Connect to the Ray cluster at ``address`` for as long as the context lasts.

    ``local`` starts one on this machine; ``auto`` takes a cluster that is running, or else starts one. Raises
    InputError where there is none at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage data is sent unless the user wants it
    # Ray 2.x warns that this will change; a task that asks for no GPU sees none either way.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    _check_answers(address)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        ray.init(address=None if address == "auto" else address, **options)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise _no_cluster(address, error) from error
    with redirect_stdout(sys.stderr):  # Ray's threads print what they notice, and stdout is for data
        try:
            yield Cluster()
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise InputError if nobody listens at ``HOST:PORT``: Ray itself would try for minutes and log each time."""
    if (where := re.fullmatch(r"(?:ray://)?([^:/]+):(\d{1,5})", address)) is None:
        return
    try:
        socket.create_connection((where[1], int(where[2])), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> InputError:
    return InputError(
        f"there is no Ray cluster at {address!r} ({' '.join(str(error).split())[:200]}); start one with "
        "`ray start --head`, or use --cluster local"
    )


_SECONDS_TO_ANSWER = 10.0
"""Time in which the head node of a cluster must accept a connection."""


@dataclass(slots=True)
class _Attempt:
    """One call of a task."""

    task: Task
    index: int
    """Index of the task in the list."""

    number: int = 1
    began: float = 0.0
    """Monotonic time, in seconds, at which the task first found its store busy; 0 if it never did."""

    error: str = ""
    pause: float = 0.0
    """Seconds before the task is called again."""

    def outcome(self, reference: Any) -> TaskResult | None:
        """Return how the task ended, or None if it is to be called again."""
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
        waited = self.pause > 0  # it waited for another writer, which does not count as an attempt
        return _Attempt(self.task, self.index, self.number + (not waited), self.began)


@dataclass(frozen=True, slots=True)
class _Returned:
    """The value or the error of one call of a task; an error is text, since not every exception can be sent."""

    value: Any = None
    error: str | None = None
    is_final: bool = False
    is_busy: bool = False


def _call(call: Callable[[Worker], Any], board: Any, index: int, folder: str, pause: float = 0.0) -> _Returned:
    """Call a task on a worker, in ``folder``, which relative paths refer to, after a pause in seconds."""
    time.sleep(pause)
    reporter = _BoardReporter(board, index)
    try:
        os.chdir(folder)
        value = call(Worker(reporter=reporter, state=_worker_state()))
        reporter.flush()
        return _Returned(value=value)
    except StoreBusyError as error:
        return _Returned(error=_line(error), is_busy=True)
    except PenultimateError as error:
        return _Returned(error=_line(error), is_final=isinstance(error, InputError))
    except Exception as error:  # a job of days goes on after an unforeseen error, and reports it at its end
        return _Returned(error=f"{type(error).__name__}: {_line(error)}")
    finally:
        reporter.wait()


class _BoardReporter:
    """A ProgressReporter that reports to the board, images at most twice a second."""

    def __init__(self, board: Any, index: int) -> None:
        self._board = board
        self._index = index
        self._told = 0.0
        self._state = (0, 0)
        self._last: Any = None

    def log(self, line: str) -> None:
        self._last = self._board.log.remote(line)

    def images(self, done: int, total: int) -> None:
        self._state = done, total
        if time.monotonic() - self._told > _POLL_SECONDS or not done:
            self.flush()

    def flush(self) -> None:
        self._told = time.monotonic()
        worker = f"{socket.gethostname()}:{os.getpid()}"
        self._last = self._board.images.remote(self._index, worker, self._state, time.time())

    def wait(self) -> None:
        """Wait until the board has every report: what Ray has yet to send is lost if this process dies."""
        if self._last is not None:
            ray.get(self._last)  # the board takes one worker's reports in their order


class _Board:
    """An actor that collects what workers report until it is shown."""

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
        """Record how far a worker is with a task."""
        before, done, _ = self._tasks.get(index, ("", 0, 0))
        self._images[worker] += state[0] - (done if before == worker and state[0] else 0)
        self._tasks[index] = worker, *state
        self._first.setdefault(worker, now)
        self._last[worker] = now

    def take(self) -> tuple[list[str], dict[int, tuple[str, int, int]], dict[str, float]]:
        """Return the lines since the last call, how far each task is, and the images/s of each worker."""
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
    # A resumed task finds fewer images to do than its total: the others were done before.
    done = sum(tasks[index].num_images - total + done for index, (_, done, total) in states.items())
    progress(Progress(done=done, total=sum(task.num_images for task in tasks), rates=rates))


def _slots(machine: Mapping[str, float], resources: TaskResources) -> int:
    of_cpus = int(machine.get("CPU", 0) // resources.cpus)
    return min(of_cpus, int(machine.get("GPU", 0) // resources.gpus)) if resources.gpus else of_cpus


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
