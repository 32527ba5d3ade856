"""WaitingBlocks: the blocks of which a writer has not all samples yet, and which of them can be committed together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError
from penultimate.store.format.slices import slice_if_contiguous
from penultimate.store.plan import Plan
from penultimate.store.writer.block_buffer import BlockBuffer

# Shapes: B batch, D feature dimensions.

_BLOCKS_A_RECORD = 64
"""Largest number of blocks that one commit record tells of, where hardly any sample is new."""


class WaitingBlocks:
    """Buffers of blocks by number, which share the memory for features."""

    def __init__(self, plan: Plan, blocks: Iterable[int]) -> None:
        """Begin these blocks of a plan, in increasing order."""
        self._plan = plan
        self._free_memory: list[NDArray[Any]] = []
        self._buffers = {block: BlockBuffer(plan, block, self._free_memory) for block in blocks}

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of the blocks, increasing."""
        return tuple(self._buffers)

    @property
    def missing_samples(self) -> NDArray[np.int64]:
        """Return the samples still to come, increasing."""
        return np.concatenate([np.empty(0, np.int64), *(buffer.missing for buffer in self._buffers.values())])

    def check_missing(self, samples: NDArray[np.int64]) -> None:
        """Raise InputError if one of these samples comes twice, or is not, or not any more, expected here."""
        samples = np.sort(samples)
        if len(repeated := samples[1:][samples[1:] == samples[:-1]]):
            raise InputError(f"samples {np.unique(repeated)[:10].tolist()} came more than once")
        unexpected = [
            samples[of_block][self._not_missing(block, samples[of_block])]
            for block, of_block in self._by_block(samples)
        ]
        if len(found := np.concatenate([samples[:0], *unexpected])):
            raise InputError(
                f"samples {found[:10].tolist()} were not missing: expected samples of the blocks "
                f"{list(self._buffers)[:10]} ({self._plan.shard_rows} samples each) that have not come yet"
            )

    def fill(self, samples_B: NDArray[np.int64], features_BD: NDArray[Any]) -> None:
        """Take the features of some samples."""
        for block, of_block in self._by_block(samples_B):
            self._buffers[block].fill(samples_B[of_block], features_BD[of_block])

    def settle(self, samples: NDArray[np.int64]) -> None:
        """Take note that some samples need no features: they failed, or their row is elsewhere."""
        for block, of_block in self._by_block(samples):
            self._buffers[block].settle(samples[of_block])

    def full_runs(self, waits: Callable[[range, range], bool], *, last: bool) -> Iterator[Sequence[int]]:
        """Yield full blocks to be committed together, in their order; each run must be taken before the next is asked.

        Blocks with few new rows come together, half a shard of rows at least; at the last also fewer. A block waits for
        those before it: together they may fill a shard, and samples of theirs may be equal to some of its own, which
        ``waits(samples, settled)`` tells. At the last it waits for the latter alone.
        """
        run: list[int] = []
        for block in tuple(self._buffers):
            samples = self._buffers[block].samples
            settled = self._plan.samples(range(run[0] if run else block, block + 1))
            if not self._buffers[block].is_full or waits(samples, settled):
                if not last:
                    return
                if run:
                    yield run
                run = []
                continue
            if run and (block != run[-1] + 1 or self._num_new([*run, block]) > self._plan.shard_rows):
                yield run
                run = []
            run.append(block)
            if 2 * self._num_new(run) > self._plan.shard_rows or len(run) == _BLOCKS_A_RECORD:
                yield run
                run = []
        if run and last:
            yield run

    def take(self, run: Sequence[int]) -> list[BlockBuffer]:
        """Remove some blocks and return their buffers."""
        return [self._buffers.pop(block) for block in run]

    def give_back(self, buffers: Sequence[BlockBuffer]) -> None:
        """Use the memory of buffers that were written again; any thread may call it."""
        self._free_memory += [buffer.memory for buffer in buffers if buffer.num_new]

    def _not_missing(self, block: int, samples: NDArray[np.int64]) -> NDArray[np.bool_]:
        buffer = self._buffers.get(block)
        return np.ones(len(samples), np.bool_) if buffer is None else ~buffer.misses(samples)

    def _by_block(self, samples: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64] | slice]]:
        """Yield each block that some samples are of, and the positions of these among them."""
        if not len(samples):
            return
        blocks = samples // self._plan.shard_rows
        if (blocks == blocks[0]).all():
            yield int(blocks[0]), slice(None)
            return
        for block in np.unique(blocks).tolist():
            yield block, slice_if_contiguous(np.flatnonzero(blocks == block))

    def _num_new(self, blocks: Sequence[int]) -> int:
        return sum(self._buffers[block].num_new for block in blocks)
