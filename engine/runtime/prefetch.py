"""Map a function over items on other threads, with results in order and a bounded number of calls in flight."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    executor: Executor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    depth: int,
    has_room: Callable[[], bool] = lambda: True,
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order, with at most ``depth`` calls in flight on ``executor``.

    Unlike ``Executor.map`` it takes from ``items`` only as results are taken from it, so that a chain of these
    needs memory for ``depth`` items a stage whatever the number of items. While ``has_room`` is false, no call is
    begun beside another. Raises what ``function`` raises.
    """
    in_flight: deque[Future[Result]] = deque()
    try:
        for item in items:
            in_flight.append(executor.submit(function, item))
            while in_flight and (len(in_flight) >= depth or not has_room()):
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()
    finally:
        for future in in_flight:
            future.cancel()
