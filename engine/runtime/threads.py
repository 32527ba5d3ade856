"""ThreadBudget divides a machine's cores between the threads that decode and those that run networks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from penultimate.engine.runtime.capabilities import usable_cores

_MAX_REPLICAS = 16
"""Largest number of replicas. They launch their kernels under one interpreter lock, so with more cores each replica has
several threads instead."""

CPU_BATCH_SIZE = 8
CUDA_BATCH_SIZE = 256
"""Numbers of images a forward pass by default. On a CPU a pass of few images keeps its maps in the cores' caches:
EfficientNet-Lite0 in float32 on 2 cores gives 90 images/s at 8 and 40 at 64 (benchmarks/results/)."""


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
def at_most_threads(count: int) -> Iterator[None]:
    """Within the context, let torch's kernels, and those compiled here, use ``count`` threads at most."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_batch_size(device: str) -> int:
    """Return the default number of images a forward pass on ``device``."""
    return CUDA_BATCH_SIZE if device.startswith("cuda") else CPU_BATCH_SIZE
