"""WorkerState keeps values that several tasks of one process use, such as image sets and loaded networks."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

Value = TypeVar("Value")

_CAPACITY = 2
"""Number of values kept of one kind: tasks come in the order of datasets, and a network may fill a GPU."""


class WorkerState:
    """A cache of the values that tasks of one process have made, the most recent ones of each kind.

    A kind is the type of the key. No result depends on it: a value that was dropped is made again.
    """

    def __init__(self) -> None:
        self._values: dict[type, OrderedDict[Hashable, object]] = {}

    def get_or_make(self, key: Hashable, make: Callable[[], Value], *, capacity: int = _CAPACITY) -> Value:
        """Return the value kept under ``key``, or the one that ``make`` returns now.

        If there would be more than ``capacity`` values with keys of this type, the oldest are dropped first.
        """
        kept = self._values.setdefault(type(key), OrderedDict())
        if key not in kept:
            while len(kept) >= capacity:
                kept.popitem(last=False)
            kept[key] = make()
        kept.move_to_end(key)
        return cast(Value, kept[key])  # a key always has the type of value that its callers make
