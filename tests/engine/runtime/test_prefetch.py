import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from penultimate.engine.runtime.prefetch import prefetch_map


def test_results_come_in_order_whatever_finishes_first() -> None:
    def slower_first(number: int) -> int:
        time.sleep(0.002 * (8 - number % 8))
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(prefetch_map(pool, slower_first, range(32), depth=8)) == list(range(32))


def test_no_more_items_are_taken_than_the_depth_allows() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    with ThreadPoolExecutor(2) as pool:
        for consumed, _ in enumerate(prefetch_map(pool, abs, items(), depth=5)):
            assert taken <= consumed + 5


def test_without_room_one_call_is_in_flight_and_all_results_come() -> None:
    running = most = 0
    lock = threading.Lock()

    def count(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(prefetch_map(pool, count, range(16), depth=8, has_room=lambda: False)) == list(range(16))
        assert most == 1
        list(prefetch_map(pool, count, range(16), depth=8))
        assert most > 1


def test_an_exception_is_raised_where_its_result_is_taken_and_the_rest_is_cancelled() -> None:
    ran: list[int] = []

    def fail_at_two(number: int) -> int:
        ran.append(number)
        if number == 2:
            raise OSError("two")
        return number

    with ThreadPoolExecutor(1) as pool, pytest.raises(OSError, match="two"):
        list(prefetch_map(pool, fail_at_two, range(1000), depth=4))
    assert max(ran) <= 2 + 4
