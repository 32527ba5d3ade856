"""Partition is one of several equal parts of any work, written ``I/N`` and counted from 0."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from penultimate.store.errors import InputError

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """Part ``index`` of ``count`` equal parts, which together hold every item exactly once, in order."""

    index: int = 0
    """Index of this part, from 0 to ``count`` - 1."""

    count: int = 1
    """Number of parts."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            allowed = f"0/{self.count} to {self.count - 1}/{self.count}" if self.count else "0/1"
            raise InputError(f"part I/N of some work counts from 0: expected {allowed}, got {self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a partition such as ``0/2``, the first of two. Raises InputError for anything else."""
        if not (match := re.fullmatch(r"(\d+)/(\d+)", text)):
            raise InputError(f"expected a part I/N such as 0/2, the first of two, got {text!r}")
        return cls(index=int(match[1]), count=int(match[2]))

    def indices(self, num_items: int) -> range:
        """Return the indices of this part's items: at most one more than any other part has, none if items are few.

        >>> [list(Partition(index=i, count=3).indices(7)) for i in range(3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range(self.index * num_items // self.count, (self.index + 1) * num_items // self.count)

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Return this part's items.

        >>> Partition(index=1, count=3).of("abcdefg")
        ['c', 'd']
        """
        return [items[index] for index in self.indices(len(items))]


WHOLE = Partition()
"""The one part that is all of the work."""
