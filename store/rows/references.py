"""References: which rows of which sources a set refers to."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Shapes: M samples of the set, R of them with a row in one source.


class Reference(NamedTuple):
    """The samples of a set that have their rows in one source."""

    source: Mapping[str, Any]
    """What the set's attributes say of the source: ``path``, ``num_rows``, ``shard_rows``."""

    samples_R: NDArray[np.int64]
    rows_R: NDArray[np.int64]
    """Row of each sample in the source."""

    @property
    def shards(self) -> set[int]:
        """Return the shards of the source in which these rows lie."""
        return set(np.unique(self.rows_R // self.source["shard_rows"]).tolist())


def references(sources: Sequence[Mapping[str, Any]], row_M: NDArray[np.int64]) -> Iterator[Reference]:
    """Yield what a set refers to, source by source, given its column ``row``, -1 where a sample failed."""
    first = 0
    for source in sources:
        samples = np.flatnonzero((row_M >= first) & (row_M < first + source["num_rows"]))
        yield Reference(source, samples, row_M[samples] - first)
        first += source["num_rows"]
