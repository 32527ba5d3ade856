"""World: the devices that train one network together; a single one unless torchrun started several processes."""

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
    """This process among those that train one network, each on a device of its own."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Return True for the one process that writes files and reports progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Average gradients over the world, and on GPUs compute batch norm over the whole batch.

        Raises UnavailableError for a network with batch norm on several CPUs: torch synchronises it on GPUs alone,
        and statistics of local batches would make the result depend on the number of processes.
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
        """Return the mean over the world of a tensor that each process has."""
        if self.size == 1:
            return value
        total = value.detach().to(self.device, copy=True)  # NCCL adds up tensors on GPUs alone
        dist.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set in any process."""
        if self.size == 1:
            return flag
        found = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(found)
        return bool(found > 0)

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Value | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # all_gather_object has filled every entry

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world_from_launcher(device: str) -> Iterator[World]:
    """Join the world that torchrun describes in the environment; without torchrun, a world of one.

    ``device`` is ``cpu`` or ``cuda``; of several processes on GPUs, each takes the GPU of its local rank. Raises
    UnavailableError where a process has no GPU of its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = (int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])) if size > 1 else (0, 0)
    chosen = _device(device, local_rank)
    # All updates have the same shapes, so that it pays to try cuDNN's algorithms, as timm's train.py does.
    torch.backends.cudnn.benchmark = device == "cuda"
    if size == 1:
        yield World(rank=0, size=1, device=chosen)
        return
    if device == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield World(rank=rank, size=size, device=chosen)
    finally:
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UnavailableError(f"no CUDA device: torch {torch.__version__} sees none; use --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise UnavailableError(
            f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; "
            f"start torchrun with --nproc-per-node {torch.cuda.device_count()}"
        )
    return torch.device("cuda", local_rank)


def local_batch_size(batch_size: int, world: World) -> int:
    """Return the images of an update on each device. Raises InputError unless they divide evenly."""
    if batch_size % world.size:
        raise InputError(f"batch size {batch_size} cannot be divided evenly among {world.size} processes")
    return batch_size // world.size
