"""Partition: part I of N of any work, from 0: the one way to name a part."""

import re
from dataclasses import dataclass
from typing import Self

from penultimate.store.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """Part ``index`` of ``count``; the parts of all indices are every item exactly once, in order.

    Raises InputError unless 0 <= index < count.
    """

    index: int = 0
    """From 0."""

    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            parts = f"0/{self.count}" + (f" to {self.count - 1}/{self.count}" if self.count > 1 else "")
            raise InputError(
                f"parts are numbered from 0: expected {parts}, got {self.index}/{self.count}"
                if self.count > 0
                else f"expected part I of N such as 0/2, the first of two, got {self.index}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the partition that ``0/2`` names; raises InputError for anything else."""
        if not (match := re.fullmatch(r"(\d+)/(\d+)", text)):
            raise InputError(f"expected part I of N such as 0/2, the first of two, got {text!r}")
        return cls(index=int(match[1]), count=int(match[2]))

    def of(self, num_items: int) -> range:
        """Return the items of this part; parts differ by at most one in number, and have none where items are few.

        >>> [list(Partition(index=i, count=3).of(7)) for i in range(3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range(self.index * num_items // self.count, (self.index + 1) * num_items // self.count)


WHOLE = Partition()
"""All of it."""
