"""World: the devices that train together; one, unless torchrun started several processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from penultimate.store.errors import InputError, UnavailableError

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among those that train one network, each on its own device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """The one process that writes files and talks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model`` with its gradients averaged over the world; batch norm over the world's batch on GPUs.

        Raises UnavailableError for a network with batch norm on several CPUs: torch synchronises it on GPUs alone,
        and statistics of a share of the batch would make the result depend on the number of processes.
        """
        if self.size == 1:
            return model
        if self.device.type == "cpu" and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            raise UnavailableError(
                f"{type(model).__name__} has batch norm, which torch synchronises between GPUs only; "
                "train it in one process, or on --device cuda"
            )
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        device_ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(synchronised, device_ids=device_ids)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the world of a tensor each process has."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in some process."""
        if self.size == 1:
            return flag
        found = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(found)
        return bool(found > 0)

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Value | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # all_gather_object has filled every place

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world_from_launcher(device: str) -> Iterator[World]:
    """The world that torchrun describes in the environment, or a world of one without it.

    ``device``: ``cpu`` or ``cuda``; of several processes on GPUs each takes the one of its local rank. Raises
    UnavailableError where a process has no GPU of its own.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(f"no CUDA device: torch {torch.__version__} sees none; use --device cpu")
    # Every update has the shapes of the first, so that trying cuDNN's algorithms out pays, as in timm's train.py.
    torch.backends.cudnn.benchmark = device == "cuda"
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(rank=0, size=1, device=torch.device(device, 0) if device == "cuda" else torch.device(device))
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if device == "cuda" and local_rank >= torch.cuda.device_count():
        raise UnavailableError(
            f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; "
            f"start torchrun with --nproc-per-node {torch.cuda.device_count()}"
        )
    chosen = torch.device("cuda", local_rank) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield World(rank=rank, size=size, device=chosen)
    finally:
        dist.destroy_process_group()


def share_of(batch_size: int, world: World) -> int:
    """Images of an update on each device. Raises InputError unless they divide evenly."""
    if batch_size % world.size:
        raise InputError(f"batch size {batch_size} cannot be shared evenly by {world.size} processes")
    return batch_size // world.size
