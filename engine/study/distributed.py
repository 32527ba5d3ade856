"""Run cells on a cluster: ``cells_on`` is a ``run_cells`` for ``run_study`` that runs them as parallel tasks.

``extract_on`` and ``probe_on`` run lists of cells for the verbs ``extract`` and ``probe``. A cell that trains on
several GPUs runs under torchrun, on the GPUs that Ray gave its task.
"""

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penultimate.engine.extract.embed import Extracted, log_not_finite
from penultimate.engine.extract.pipeline import ImagesDone
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.partition import Partition
from penultimate.engine.runtime.worker_state import WorkerState
from penultimate.engine.study.cell import (
    Cell,
    CheckCell,
    ExtractCell,
    Log,
    Preparation,
    ProbeCell,
    RunContext,
    TrainCell,
)
from penultimate.engine.study.run import CellResult, RunCells
from penultimate.store.errors import TasksFailedError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.layout import num_shards, shard_rows_for

if TYPE_CHECKING:  # imports Ray, which only --cluster needs
    from penultimate.engine.runtime.ray_cluster import (
        Cluster,
        ObjectReference,
        Progress,
        TaskResources,
        TaskResult,
        Worker,
    )

PARTS_PER_SLOT = 4
"""Parts of an extraction for each concurrent task: fewer leave workers idle at the end, more start too often."""

_FAILURES_SHOWN = 3


def cells_on(cluster: "Cluster", resources: "TaskResources") -> RunCells:
    """Return a function that runs each cell as a task with ``resources`` and yields its result as it ends."""
    from penultimate.engine.runtime.ray_cluster import Task

    def run_cells(cells: Sequence[Cell], context: RunContext) -> Iterator[CellResult]:
        tasks = [Task(name=cell.title, call=CellTask(cell, resources.gpus)) for cell in cells]
        cell_of = {id(task): cell for task, cell in zip(tasks, cells, strict=True)}
        if tasks:
            for result in cluster.run(tasks, resources, log=context.log):
                yield CellResult(cell=cell_of[id(result.task)], error=result.error)

    return run_cells


def extract_on(
    cluster: "Cluster",
    images: ImageSet,
    job: Preparation,
    store: FeatureStore,
    *,
    resources: "TaskResources",
    log: Log,
    progress: Callable[["Progress"], None],
) -> list[Extracted]:
    """Embed ``images`` as ``embed_images`` does, on a cluster; the store has then what a single process would make.

    Raises TasksFailedError, once all others have ended, if a part failed each time it was tried.
    """
    put = PutImages(name=images.name, reference=cluster.put(images))
    check = CheckCell(images=put, job=job, store=store.address)
    ((checks, keys),) = _values(cluster, [check], resources, log)
    found = {key: Extracted(features=store.read(key), num_embedded=0) for key in keys if key is not None}
    if None in keys:
        shard_rows = job.shard_rows or shard_rows_for(len(images))
        blocks = num_shards(len(images), shard_rows)
        count = min(blocks, PARTS_PER_SLOT * cluster.slots(resources))
        parts = [Partition(index=index, count=count) for index in range(count)]
        cells = [ExtractCell(images=put, job=job, store=store.address, partition=part, checks=checks) for part in parts]
        of_parts = [part.indices(blocks) for part in parts]
        counts = [min(part.stop * shard_rows, len(images)) - part.start * shard_rows for part in of_parts]
        for complete in _values(cluster, cells, resources, log, progress=progress, num_images=counts):
            found |= {key: Extracted(features=store.read(key), num_embedded=number) for key, number in complete}
    if len(found) < len(keys):  # a worker died after it had completed a set, before it could say so
        raise TasksFailedError(
            f"{len(keys) - len(found)} of {len(keys)} sets of features were not reported as complete; run the same "
            "command again to complete them or find them complete"
        )
    log_not_finite(store, [each.features for each in found.values()], log)
    return list(found.values())


def probe_on(cluster: "Cluster", cells: Sequence[ProbeCell], *, resources: "TaskResources", log: Log) -> list[str]:
    """Fit what is missing of ``cells`` on a cluster; returns the ids of their trials, in order.

    Raises TasksFailedError, once all others have ended, if a cell failed each time it was tried.
    """
    return _values(cluster, cells, resources, log)


@dataclass(frozen=True, kw_only=True, slots=True)
class PutImages:
    """An ImageSet in the object store of a cluster, held once on each machine."""

    name: str
    reference: "ObjectReference"

    def load(self, state: WorkerState) -> ImageSet:
        """Return the images; the same object each time within a process."""
        images: ImageSet = state.get_or_make(self.reference, self.reference.get, capacity=1)
        return images


@dataclass(frozen=True, slots=True)
class CellTask:
    """A cell as the callable that a worker runs."""

    cell: Cell
    gpus: int = 0

    def __call__(self, worker: "Worker") -> Any:
        """Run the cell here, or under torchrun; returns what it returns."""
        if isinstance(self.cell, TrainCell) and self.gpus > 1:
            return under_torchrun(self.cell, processes=self.gpus)
        return self.cell.run(_run_context(worker))


def under_torchrun(cell: Cell, *, processes: int) -> None:
    """Run a cell in ``processes`` processes that torchrun starts on this machine.

    Raises TasksFailedError with the first error line of their stderr where they fail.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cell.pickle"
        file.write_bytes(pickle.dumps(cell))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*torchrun, "--module", "penultimate.engine.study.distributed", str(file)]
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        errors = [line for line in ended.stderr.splitlines() if "Error: " in line] or ["torchrun said nothing of why"]
        raise TasksFailedError(f"torchrun with {processes} processes: {errors[0].strip()}")


def _run_context(worker: "Worker") -> RunContext:
    def images(title: str) -> AbstractContextManager[ImagesDone]:
        return nullcontext(worker.reporter.images)

    return RunContext(log=worker.reporter.log, images=images, state=worker.state)


def _values(
    cluster: "Cluster",
    cells: Sequence[Cell],
    resources: "TaskResources",
    log: Log,
    *,
    progress: Callable[["Progress"], None] = lambda progress: None,
    num_images: Sequence[int] = (),
) -> list[Any]:
    """Run ``cells`` and return their values in order; raises TasksFailedError, after all have ended, if one failed."""
    from penultimate.engine.runtime.ray_cluster import Task

    counts = num_images or [0] * len(cells)
    tasks = [
        Task(name=cell.title, call=CellTask(cell), num_images=count) for cell, count in zip(cells, counts, strict=False)
    ]
    results = {id(result.task): result for result in cluster.run(tasks, resources, log=log, progress=progress)}
    _raise_failed(results.values())
    return [results[id(task)].value for task in tasks]


def _raise_failed(results: Iterable["TaskResult"]) -> None:
    finished = list(results)
    failed = [result for result in finished if result.error is not None]
    if failed:
        reasons = "; ".join(f"{each.task.name}: {each.error}" for each in failed[:_FAILURES_SHOWN])
        more = f"; and {len(failed) - _FAILURES_SHOWN} more" if len(failed) > _FAILURES_SHOWN else ""
        raise TasksFailedError(
            f"{len(failed)} of {len(finished)} tasks failed, the others are done ({reasons}{more}); "
            "run the same command again to do what is missing"
        )


if __name__ == "__main__":
    pickle.loads(Path(sys.argv[1]).read_bytes()).run(RunContext())
