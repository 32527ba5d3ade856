"""``--cluster``: declare the options of verbs that can run on Ray, and show the progress of all workers."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from penultimate.cli.options import WHERE
from penultimate.cli.progress import ImageProgress
from penultimate.store.errors import UnavailableError

if TYPE_CHECKING:  # imports Ray, which only --cluster needs
    from penultimate.engine.runtime.ray_cluster import Cluster, Progress, TaskResources

_WORKERS_SHOWN = 8

ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="auto|local|ADDRESS",
        help="Run on Ray: on the cluster that is there or else this machine's GPUs and cores (auto), on this machine "
        "(local), or at an address. Needs the extra `ray`.",
        rich_help_panel=WHERE,
    ),
]
TaskCpus = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="With --cluster: CPUs of a task. Default: a GPU's part of its machine; without GPUs, a machine.",
        rich_help_panel=WHERE,
    ),
]


def open_cluster(address: str) -> "AbstractContextManager[Cluster]":
    """Open the cluster at the address of ``--cluster``; raises UnavailableError where Ray is not installed."""
    try:
        from penultimate.engine.runtime.ray_cluster import cluster_at
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"--cluster needs the package {error.name}, which is not installed: pip install 'penultimate[ray]'"
        ) from error
    return cluster_at(address)


def resources_of(
    cluster: "Cluster", *, device: str, task_cpus: int | None, default_cpus: int | None = None, task_gpus: int = 1
) -> "TaskResources":
    """Return a task's resources: GPUs if it runs on them, and CPUs by ``task_cpus``, ``default_cpus`` or machine."""
    from penultimate.engine.runtime.ray_cluster import TaskResources

    gpus = task_gpus if device == "cuda" else 0
    cpus = task_cpus or default_cpus
    return TaskResources(cpus=cpus, gpus=gpus) if cpus else cluster.whole_machine(gpus=gpus)


class ClusterProgress(ImageProgress):
    """Shows the progress of many workers: images/s of all together and of each."""

    def update(self, progress: "Progress") -> None:
        """Show the progress of all workers."""
        if not progress.total or progress.done == self._shown:
            return
        self._shown = progress.done
        rates = sorted(progress.rates.items())
        each = ", ".join(f"{worker} {rate:,.1f}" for worker, rate in rates[:_WORKERS_SHOWN])
        more = f" and {len(rates) - _WORKERS_SHOWN} more" if len(rates) > _WORKERS_SHOWN else ""
        self.show(progress.done, progress.total, sum(progress.rates.values()), f" ({each}{more})" if rates else "")

    _shown = -1
