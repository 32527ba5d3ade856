"""Working ahead: results in order, a bounded number of them in flight."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, depth: int
) -> Iterator[Result]:
    """``map(function, items)`` on ``executor``, at most ``depth`` calls begun and not yet taken.

    Unlike ``Executor.map`` it takes from ``items`` only as results are taken from it, so that a chain of these
    needs memory for ``depth`` items a stage whatever the number of items. What ``function`` raises is raised here.
    """
    flying: deque[Future[Result]] = deque()
    try:
        for item in items:
            flying.append(executor.submit(function, item))
            if len(flying) >= depth:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        for future in flying:
            future.cancel()
