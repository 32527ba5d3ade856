import numpy as np
import pytest

from penultimate.engine.analysis.statistics.log_odds import log_odds
from penultimate.store.errors import InputError


def test_an_accuracy_of_three_quarters_has_odds_of_three_to_one() -> None:
    assert log_odds(0.75).values == pytest.approx(np.log(3))


def test_multiplying_the_odds_adds_to_the_log_odds() -> None:
    p = np.array([0.2, 0.5, 0.9])
    twice = 2 * p / (1 - p) / (1 + 2 * p / (1 - p))
    # Rounding of numbers of size 1.
    assert log_odds(twice).values - log_odds(p).values == pytest.approx(np.log(2), abs=1e-12)


def test_all_right_of_n_counts_as_half_a_sample_wrong_and_says_so() -> None:
    got = log_odds([1.0, 0.9, 0.0], num_test=100)
    assert got.values[[0, 2]] == pytest.approx([np.log(99.5 / 0.5), -np.log(99.5 / 0.5)])
    assert got.moved.tolist() == [True, False, True]
    assert "0.5/n" in got.rule


def test_without_counts_a_perfect_score_stays_above_every_other() -> None:
    got = log_odds([1.0, 0.9996, 0.5])
    assert np.isfinite(got.values).all()
    assert got.values[0] > got.values[1]
    assert got.moved.tolist() == [True, False, False]


def test_nothing_is_said_to_be_moved_where_nothing_was() -> None:
    got = log_odds([0.2, 0.7], num_test=10)
    assert not got.moved.any()
    assert got.rule == "no accuracy was 0 or 1"


def test_a_missing_cell_stays_missing() -> None:
    assert np.isnan(log_odds([0.5, np.nan]).values).tolist() == [False, True]


@pytest.mark.parametrize("wrong", [76.1, -0.1])
def test_what_is_no_fraction_is_refused(wrong: float) -> None:
    with pytest.raises(InputError, match="divide percentages by 100"):
        log_odds([0.5, wrong])
