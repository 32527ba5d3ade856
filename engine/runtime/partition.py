"""Share: the part of an extraction that one of several processes does."""

import re
from dataclasses import dataclass
from typing import Self

from penultimate.store.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Part ``index`` of ``count``; the parts of all are every shard of a key exactly once, in order."""

    index: int = 0
    """From 0."""

    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(f"a share i/n needs 0 <= i < n, got {self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The share that ``0/2`` names; InputError for anything else."""
        if not (match := re.fullmatch(r"(\d+)/(\d+)", text)):
            raise InputError(f"expected a share like 0/2, the first of two, got {text!r}")
        return cls(index=int(match[1]), count=int(match[2]))

    def shards(self, num_shards: int) -> range:
        """The shards of this share, which differ by at most one in number from another's; none if there are few.

        >>> [list(Share(index=i, count=3).shards(7)) for i in range(3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range(self.index * num_shards // self.count, (self.index + 1) * num_shards // self.count)


WHOLE = Share()
"""All of it."""
