"""Contenders take turns within their seconds, and a busy machine is noticed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from penultimate.engine.bench.timing.measurement import Measurement, compared, other_cores
from penultimate.engine.bench.timing.processor_time import ProcessorClock
from penultimate.engine.bench.timing.turns import Contender, Lap, Laps, TurnOptions, take_turns, timed, timed_call
from penultimate.store.errors import InputError


def noting(name: str, noted: list[str], *, steps: int = 1, seconds: float = 0.0) -> Contender:
    def run() -> Iterator[int]:
        noted.append(name)
        for _ in range(steps):
            time.sleep(seconds)
            yield 2

    return Contender(name=name, group="test", run=run, items=2 * steps)


def test_a_call_is_timed_once_and_its_value_returned() -> None:
    noted: list[int] = []

    def call() -> str:
        noted.append(1)
        time.sleep(0.05)
        return "value"

    value, lap = timed_call(call)
    assert (value, noted, lap.items, lap.complete) == ("value", [1], 1, True)
    assert lap.wall_seconds >= 0.05


def test_every_contender_has_a_turn_a_round_in_an_order_that_rotates() -> None:
    noted: list[str] = []
    laps = take_turns([noting(name, noted) for name in "abc"], TurnOptions(rounds=2))
    assert noted == list("abcabcbca")
    assert [(each.name, len(each.rounds), each.complete) for each in laps] == [(name, 2, True) for name in "abc"]
    assert all(lap.items == 2 for each in laps for lap in each.rounds)


def test_a_contender_may_warm_up_with_less_than_the_whole_work() -> None:
    noted: list[str] = []
    less = noting("less", noted).run
    (laps,) = take_turns([replace(noting("whole", noted, steps=3), warm_up=less)], TurnOptions(rounds=2))
    assert noted == ["less", "whole", "whole"]
    assert (laps.warm_up.items, [lap.items for lap in laps.rounds], laps.complete) == (2, [6, 6], True)


def test_a_turn_that_takes_its_share_of_the_seconds_ends_at_a_step_and_says_so() -> None:
    noted: list[str] = []
    long = noting("long", noted, steps=1000, seconds=0.02)
    began = time.perf_counter()
    (first, second) = take_turns([long, noting("short", noted)], TurnOptions(seconds=0.8, rounds=3))
    assert time.perf_counter() - began < 20  # of 80 seconds' work
    assert not first.complete
    assert second.complete
    assert all(2 <= lap.items < 2000 for lap in first.rounds)


def test_no_round_is_begun_that_would_end_late_but_one_is_always_done() -> None:
    noted: list[str] = []
    (laps,) = take_turns([noting("slow", noted, seconds=0.1)], TurnOptions(seconds=0.25, rounds=9))
    assert 1 <= len(laps.rounds) <= 2
    (laps,) = take_turns([noting("slow", noted, seconds=0.1)], TurnOptions(seconds=0.01, rounds=9))
    assert len(laps.rounds) == 1


def test_preparing_and_what_a_contender_does_when_it_is_closed_are_not_timed() -> None:
    def run() -> Iterator[int]:
        try:
            yield 1
        finally:
            time.sleep(1.5)

    lap = timed(Contender(name="a", group="test", run=run, prepare=lambda: time.sleep(1.5), items=1))
    assert lap.wall_seconds < 1.4


def test_sleeping_is_waiting_and_computing_is_not() -> None:
    def compute() -> Iterator[int]:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        yield 1

    worked = timed(Contender(name="compute", group="test", run=compute, items=1, threads=1))
    slept = timed(noting("sleep", [], seconds=0.2))
    assert worked.self_seconds >= 0.19
    assert slept.waiting_seconds > 0.1  # reading the clocks takes a few milliseconds of processor time


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are counted from /proc")
def test_a_process_that_ends_after_the_last_step_has_its_time_counted() -> None:
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"

    def run() -> Iterator[int]:
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield 1
            time.sleep(0.1)  # what it does then is no part of the turn
            spin = time.process_time() + 0.5
            while time.process_time() < spin:
                pass
            process.kill()

    lap = timed(Contender(name="a", group="test", run=run, items=1, threads=10))
    assert 0.045 <= lap.self_seconds < 0.09


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_seconds_that_are_no_time_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="seconds"):
        TurnOptions.of({"seconds": value})


BURN_SECONDS = 60
BURN = f"import time\nend = time.monotonic() + {BURN_SECONDS}\nwhile time.monotonic() < end: pass"


@pytest.fixture
def burning(tmp_path: Path) -> Iterator[Callable[[bool], None]]:
    """Start a process that keeps a core of this one busy: a child, or somebody else's."""
    started: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def start(is_ours: bool) -> None:
        if is_ours:
            children.append(subprocess.Popen([sys.executable, "-c", BURN]))
        else:  # the shell ends, and its child becomes another's
            shell = f"'{sys.executable}' -c '{BURN}' > /dev/null 2>&1 & echo $!"
            started.append(int(subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, check=True).stdout))

    yield start
    for pid in started:
        os.kill(pid, 9)
    for child in children:
        child.kill()
        child.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest.mark.parametrize("is_ours", [True, False])
def test_others_work_is_told_from_that_of_processes_that_were_started_here(
    is_ours: bool, burning: Callable[[bool], None]
) -> None:
    burning(is_ours)
    clock, began = ProcessorClock(), time.process_time()
    until = time.monotonic() + BURN_SECONDS  # others may want the cores too
    while True:
        time.sleep(0.1)
        spent, here = clock.read(), time.process_time() - began
        assert spent.others is not None
        if (spent.own if is_ours else spent.others) > 0.5:
            break
        assert time.monotonic() < until, spent
    if not is_ours:
        assert spent.own < here + 0.05  # of the two clocks the slower one ticks every 0.01 s


def lap(seconds: float, *, items: int = 10, complete: bool = True, others: float = 0.0) -> Lap:
    return Lap(items=items, wall_seconds=seconds, self_seconds=seconds, other_seconds=others, complete=complete)


def laps(name: str, *rounds: Lap) -> Laps:
    return Laps(name=name, group="test", warm_up=rounds[0], rounds=rounds)


def test_ratios_are_those_of_a_round_and_a_bound_where_one_did_not_end() -> None:
    first, second = compared([laps("peer", lap(4.0), lap(8.0)), laps("ours", lap(2.0), lap(2.0))], unit="s")
    assert first.ratios == ()
    assert (second.ratios, second.ratio_to, second.ratio_bound) == ((2.0, 4.0), "peer", "")
    assert (second.median, second.unit) == (2.0, "s")
    cut = laps("peer", lap(4.0, items=3, complete=False))
    _, ours = compared([cut, laps("ours", lap(2.0))], unit="s")
    assert (ours.ratios, ours.ratio_bound) == ((2.0,), ">")
    _, peer = compared([laps("ours", lap(2.0)), cut], unit="s")
    assert (peer.ratios, peer.ratio_bound) == ((0.5,), "<")
    _, peer = compared([cut, laps("other", lap(3.0, items=5, complete=False))], unit="s")
    assert peer.ratios == ()


def test_a_rate_counts_items_by_their_size() -> None:
    measured = Measurement.of(laps("a", lap(2.0, items=10)), unit="MB/s", size=3.0)
    assert measured.values == (15.0,)


def test_other_cores_are_a_mean_over_all_laps() -> None:
    assert other_cores([laps("a", lap(1.0, others=0.5)), laps("b", lap(3.0, others=1.5))]) == pytest.approx(0.5)
    unknown = Lap(items=1, wall_seconds=1.0, self_seconds=1.0, other_seconds=None, complete=True)
    assert other_cores([laps("a", unknown)]) is None
