"""Tasks of the cluster's tests; workers import this file."""

import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from penultimate.engine.runtime.ray_cluster import Worker, _Board
from penultimate.store.errors import InputError, StoreBusyError


@dataclass(frozen=True)
class Counted:
    """Records each call in a file and ends as ``ends`` says for it: ``well``, ``killed``, or an error to raise."""

    calls: Path
    ends: tuple[str, ...]

    def __call__(self, worker: Worker) -> int:
        with self.calls.open("a") as file:
            file.write("call\n")
        number = len(self.calls.read_text().splitlines())
        worker.reporter.log(f"{self.calls.name} is called")
        worker.reporter.images(0, 10)
        how = self.ends[min(number, len(self.ends)) - 1]
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "busy":
            raise StoreBusyError("another writer")
        if how == "wrong":
            raise InputError("nothing would change that")
        if how == "broken":
            raise ZeroDivisionError("a bug")
        worker.reporter.images(10, 10)
        return number


class LateBoard(_Board):
    """A board that is asked for long before it answers, as on a machine that is slow to start a process."""

    def __init__(self) -> None:
        time.sleep(3)
        super().__init__()


@dataclass(frozen=True)
class Ranked:
    """A cell that leaves a file named for each process that runs it, or fails in all of them."""

    folder: Path
    problem: str = ""
    dataset: str = "none"
    title: str = "ranked"

    def run(self, context: object) -> None:
        if self.problem:
            raise InputError(self.problem)
        (self.folder / f"{os.environ['RANK']} of {os.environ['WORLD_SIZE']}").touch()


@dataclass(frozen=True)
class Where:
    """A task that returns its process and the GPUs that it sees, after a moment in which others are begun."""

    def __call__(self, worker: Worker) -> tuple[int, str]:
        time.sleep(0.2)
        return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", "")


@dataclass(frozen=True)
class LoadsTorch:
    """A task that returns what torch's libraries print on stderr while they load."""

    def __call__(self, worker: Worker) -> str:
        assert "torch" not in sys.modules, "too late to see it"
        before = os.dup(2)
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                import torch  # noqa: F401
            finally:
                os.dup2(before, 2)
            file.seek(0)
            return file.read().decode()
