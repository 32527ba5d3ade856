from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from penultimate.engine.analysis.statistics.compare import (
    all_class_differences,
    compare_settings,
    holm,
    mcnemar_test,
    mean_per_class_differences,
    paired_t_test,
    permutation_test,
)
from penultimate.store.errors import InputError


def _right(*positions: int, of: int = 40) -> NDArray[np.bool_]:
    correct = np.zeros(of, dtype=bool)
    correct[list(positions)] = True
    return correct


class TestMcNemar:
    def test_agrees_with_statsmodels_exact_test(self) -> None:
        a, b = _right(*range(25)), _right(*range(15, 31))
        table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
        assert mcnemar_test(a, b).p_value == pytest.approx(mcnemar(table, exact=True).pvalue)

    def test_one_of_ten_discordant_by_hand(self) -> None:
        # 9 against 1: both tails, 2 (C(10, 0) + C(10, 1)) / 2^10.
        a, b = _right(*range(9)), _right(9)
        assert mcnemar_test(a, b).p_value == pytest.approx(22 / 1024)
        assert mcnemar_test(a, b).difference == pytest.approx(8 / 40)

    def test_samples_that_both_get_right_say_nothing(self) -> None:
        a, b = _right(*range(9)), _right(9)
        more = np.ones(1000, dtype=bool)
        assert mcnemar_test(np.r_[a, more], np.r_[b, more]).p_value == mcnemar_test(a, b).p_value

    def test_a_network_does_not_differ_from_itself(self) -> None:
        assert mcnemar_test(_right(1), _right(1)).p_value == 1


class TestPermutation:
    def test_agrees_with_every_exchange_written_out(self) -> None:
        differences = np.array([0.1, 0.1, -0.1, 0.25, 0.25, 0.05, -0.3, 0.0, 0.2])
        signs = np.array(list(product((-1, 1), repeat=len(differences))))
        exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
        got = permutation_test(differences, rng=np.random.default_rng(0))
        # Standard error sqrt(p (1 - p) / 100,000) < 0.0016; four of them.
        assert got.p_value == pytest.approx(exact, abs=0.0064)

    def test_equal_weights_give_mcnemars_p_value(self) -> None:
        a, b = _right(*range(20)), _right(*range(12, 25))
        got = permutation_test((a.astype(float) - b) / 40, rng=np.random.default_rng(0))
        assert got.p_value == pytest.approx(mcnemar_test(a, b).p_value, abs=0.0064)  # as above
        assert got.difference == pytest.approx(mcnemar_test(a, b).difference)

    def test_never_says_impossible(self) -> None:
        got = permutation_test(np.full(500, 0.01), rng=np.random.default_rng(0), num_resamples=1000)
        assert got.p_value == pytest.approx(1 / 1001)

    def test_no_difference_at_all_is_p_one(self) -> None:
        assert permutation_test(np.zeros(5), rng=np.random.default_rng(0)).p_value == 1

    def test_the_same_seed_gives_the_same_number(self) -> None:
        differences = np.random.default_rng(1).normal(size=30)
        first, again = (permutation_test(differences, rng=np.random.default_rng(7)) for _ in range(2))
        assert first == again

    def test_p_values_are_uniform_where_there_is_no_difference(self) -> None:
        # 1,000 pairs of networks, equally good by construction. The part below 0.05 has standard error 0.007; three.
        rng = np.random.default_rng(0)
        labels = np.repeat(np.arange(5), [4, 8, 20, 30, 60])
        p_values = []
        for _ in range(1_000):
            a, b = rng.random((2, len(labels))) < 0.7
            differences = mean_per_class_differences(a, b, labels)
            p_values.append(permutation_test(differences, rng=rng, num_resamples=2_000).p_value)
        assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.021)


def test_mean_per_class_differences_add_up_to_the_difference_of_the_metric() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=50)
    a, b = rng.random((2, 50)) < 0.6
    metric = [np.mean([c[labels == k].mean() for k in range(4)]) for c in (a, b)]
    assert mean_per_class_differences(a, b, labels).sum() == pytest.approx(metric[0] - metric[1])


def test_all_class_differences_add_up_to_the_difference_in_accuracy_over_all_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=(30, 4))
    a, b = rng.normal(size=(2, 30, 4))
    accuracy = [np.mean((scores > 0) == labels) for scores in (a, b)]
    assert all_class_differences(a, b, labels).sum() == pytest.approx(accuracy[0] - accuracy[1])


class TestPairedT:
    def test_by_hand(self) -> None:
        # Differences 1, 2, 3: mean 2, error 1 / sqrt(3), t = 2 sqrt(3) with 2 degrees of freedom, for which
        # p = 1 - t / sqrt(t^2 + 2).
        t = 2 * np.sqrt(3)
        got = paired_t_test(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
        assert got.p_value == pytest.approx(1 - t / np.sqrt(t**2 + 2))
        assert got.difference == 2

    def test_one_dataset_cannot_say(self) -> None:
        assert np.isnan(paired_t_test(np.array([1.0]), np.array([2.0])).p_value)

    @pytest.mark.parametrize(("shift", "p_value"), [(0.0, 1.0), (0.1, 0.0)])
    def test_differences_without_spread_have_an_answer(self, shift: float, p_value: float) -> None:
        first = np.array([0.3, 1.7, 2.9])
        assert paired_t_test(first + shift, first).p_value == p_value


class TestSettings:
    def test_counts_and_the_exact_wilcoxon_by_hand(self) -> None:
        # All of 6 positive: the one most extreme of 2^6 orders of signs on each side.
        got = compare_settings(np.arange(6.0) * 1.2 + 1, np.arange(6.0) + 0.5)
        assert (got.num_better, got.num_equal, got.num_pairs) == (6, 0, 6)
        assert got.p_value == pytest.approx(2 / 2**6)

    def test_ties_are_neither_better_nor_worse(self) -> None:
        got = compare_settings(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 4.0]))
        assert (got.num_better, got.num_equal, got.num_pairs) == (1, 1, 3)

    def test_settings_equal_everywhere_cannot_be_ranked(self) -> None:
        assert np.isnan(compare_settings(np.ones(4), np.ones(4)).p_value)

    def test_no_pair_is_refused(self) -> None:
        with pytest.raises(InputError, match="got 0 and 0"):
            compare_settings(np.ones(0), np.ones(0))


class TestHolm:
    def test_by_hand(self) -> None:
        # 3 x 0.01; max(0.03, 2 x 0.02); max(0.04, 0.03).
        assert holm([0.01, 0.03, 0.02]) == pytest.approx([0.03, 0.04, 0.04])

    def test_agrees_with_statsmodels(self) -> None:
        p_values = np.random.default_rng(0).random(40) ** 3
        assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])

    def test_nothing_to_correct_stays_nothing(self) -> None:
        assert holm([]) == []
        assert np.isnan(holm([float("nan")])).all()

    def test_what_was_not_tested_is_not_counted(self) -> None:
        got = holm([float("nan"), 0.01, 0.04])
        assert np.isnan(got[0])
        assert got[1:] == pytest.approx([0.02, 0.04])
