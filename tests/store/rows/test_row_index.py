"""Rows are found by the whole content, fast and in little memory."""

import time
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from penultimate.store.format.contents import UNKNOWN, UNREADABLE
from penultimate.store.rows.record import NO_SOURCE, OWN
from penultimate.store.rows.row_index import RowIndex


def contents(number: int, seed: int = 0) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(1, 2**64, (number, 3), dtype=np.uint64)


def filled(contents_E3: NDArray[np.uint64], source: int = 1) -> RowIndex:
    index = RowIndex()
    index.add_many(contents_E3, np.full(len(contents_E3), source, np.int32), np.arange(len(contents_E3)))
    return index


def test_every_content_has_its_row_and_others_have_none() -> None:
    there, absent = contents(1000), contents(1000, seed=1)
    source_B, row_B = filled(there).find(np.concatenate([there[::-1], absent]))
    assert source_B.tolist() == [1] * 1000 + [NO_SOURCE] * 1000
    assert row_B.tolist() == [*range(1000)[::-1], *[-1] * 1000]


@pytest.mark.parametrize("word", [0, 1, 2])
def test_contents_that_agree_in_two_words_of_three_are_told_apart(word: int) -> None:
    """The low word is sorted by: in a set of any size some may be equal, and then the others decide."""
    there = np.tile(contents(1), (50, 1))
    there[:, word] = np.arange(50)[::-1]
    there[7, word] = 2**64 - 1
    absent = there[:1].copy()
    absent[0, word] = 999
    source_B, row_B = filled(there).find(np.concatenate([there, absent]))
    assert row_B.tolist() == [*range(50), -1]
    assert source_B[-1] == NO_SOURCE


def test_an_empty_index_finds_nothing() -> None:
    source_B, row_B = RowIndex().find(contents(3))
    assert (source_B.tolist(), row_B.tolist()) == ([NO_SOURCE] * 3, [-1] * 3)
    assert len(RowIndex().find(contents(0))[0]) == 0


def test_samples_that_nobody_could_read_and_rows_that_are_not_there_are_passed_over() -> None:
    index = RowIndex()
    odd = np.array([UNKNOWN, UNREADABLE, (5, 6, 7)], np.uint64)
    index.add_many(odd, np.zeros(3, np.int32), np.array([0, 1, -1]))
    assert index.find(odd)[1].tolist() == [-1, -1, -1]


def test_entries_that_are_added_later_are_found_beside_the_others() -> None:
    there = contents(100)
    index = filled(there[:40])
    for number in range(40, 100, 3):
        rows = np.arange(number, min(number + 3, 100))
        index.add_many(there[rows], np.full(len(rows), OWN, np.int32), rows)
        source_B, row_B = index.find(there)
        assert row_B[: number + 3].tolist() == [*range(min(number + 3, 100))]
        assert (row_B[number + 3 :] == -1).all()
        assert source_B.tolist()[:40] == [1] * 40


def test_of_a_content_with_several_rows_the_first_is_found_until_it_is_dropped() -> None:
    there = contents(20)
    index = filled(there, source=1)
    index.add_many(there, np.full(20, 2, np.int32), np.arange(20) + 100)
    assert index.find(there)[0].tolist() == [1] * 20
    index.drop(1, range(8, 12))
    source_B, row_B = index.find(there)
    assert source_B.tolist() == [1] * 8 + [2] * 4 + [1] * 8
    assert row_B[8:12].tolist() == [108, 109, 110, 111]
    index.drop(2, range(1000))
    assert index.find(there)[0][8:12].tolist() == [NO_SOURCE] * 4


@pytest.mark.slow
def test_a_million_rows_are_looked_up_in_little_time_and_memory() -> None:
    """The goal is 2 s and 200 MB; of the processor's time thrice as much is allowed, for slower ones."""
    there = contents(1_000_000)
    order = np.random.default_rng(2).permutation(len(there))
    began = time.process_time()
    index = filled(there)
    row_B = np.concatenate([index.find(there[order[start : start + 256]])[1] for start in range(0, 1_000_000, 256)])
    assert time.process_time() - began < 6
    np.testing.assert_array_equal(row_B, order)
    tracemalloc.start()
    try:
        index = filled(there)
        index.add_many(there, np.ones(len(there), np.int32), np.arange(len(there)))  # another set of the same rows
        index.find(there[order])
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 60e6  # 52 bytes a row, once
    assert peak < 250e6  # of which 72 MB are the second set's
