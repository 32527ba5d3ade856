"""Cells on a cluster: what ``run_study`` takes as ``run_cells`` in place of one cell after the other.

A cell that trains on several GPUs runs under torchrun, on GPUs that Ray gave its task.
"""

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from penultimate.engine.extract.extract import Report
from penultimate.engine.study.cell import Cell, Talk, TrainCell
from penultimate.engine.study.run import Outcome, RunCells
from penultimate.store.errors import TasksFailedError

if TYPE_CHECKING:  # Ray, only where a cluster was asked for
    from penultimate.engine.runtime.ray_cluster import Cluster, Needs
    from penultimate.engine.runtime.ray_cluster import Talk as TaskTalk


def cells_on(cluster: "Cluster", needs: "Needs") -> RunCells:
    """Runs cells as tasks that have ``needs``; an outcome as each ends, and a failure is its own."""
    from penultimate.engine.runtime.ray_cluster import Task

    def run_cells(cells: Sequence[Cell], talk: Talk) -> Iterator[Outcome]:
        tasks = [Task(name=cell.title, call=CellTask(cell, needs.gpus)) for cell in cells]
        cell_of = {id(task): cell for task, cell in zip(tasks, cells, strict=True)}
        if tasks:
            for ended in cluster.run(tasks, needs, say=talk.say):
                yield Outcome(cell=cell_of[id(ended.task)], error=ended.error)

    return run_cells


@dataclass(frozen=True, slots=True)
class CellTask:
    """One cell on a worker."""

    cell: Cell
    gpus: int

    def __call__(self, talk: "TaskTalk") -> None:
        """Run it here, or under torchrun."""
        if isinstance(self.cell, TrainCell) and self.gpus > 1:
            under_torchrun(self.cell, processes=self.gpus)
        else:
            self.cell.run(_study_talk(talk))


def under_torchrun(cell: Cell, *, processes: int) -> None:
    """Run a cell in so many processes that torchrun starts on this machine.

    Raises TasksFailedError with the last thing they said, where they fail.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cell.pickle"
        file.write_bytes(pickle.dumps(cell))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*torchrun, "--module", "penultimate.engine.study.distributed", str(file)]
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        said = [line for line in ended.stderr.splitlines() if "Error: " in line] or ["torchrun said nothing of why"]
        raise TasksFailedError(f"torchrun with {processes} processes: {said[0].strip()}")


def _study_talk(talk: "TaskTalk") -> Talk:
    def images(title: str) -> AbstractContextManager[Report]:
        return nullcontext(talk.images)

    return Talk(say=talk.say, images=images)


if __name__ == "__main__":
    pickle.loads(Path(sys.argv[1]).read_bytes()).run(Talk())
