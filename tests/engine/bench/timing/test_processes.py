"""A contender in a process of its own works when it is told to, and ends with the process that measures."""

import multiprocessing

import pytest
from support.turns import counting

from penultimate.engine.bench.timing.processes import Remote, Turns, started


def test_a_process_does_one_turn_for_each_that_is_begun() -> None:
    with started(counting, 5) as remote:
        assert remote.end() == 0  # loaded
        assert list(remote.turn()) == [6]
        assert list(remote.turn()) == [7]


def test_there_are_no_turns_once_the_process_that_measures_is_gone() -> None:
    here, there = multiprocessing.Pipe()
    here.close()
    with pytest.raises(EOFError):
        Turns(there).over(1)


def test_a_process_that_has_ended_is_told() -> None:
    here, there = multiprocessing.Pipe()
    there.close()
    with pytest.raises(RuntimeError, match="has ended before it was told to"):
        Remote(here).begin()
