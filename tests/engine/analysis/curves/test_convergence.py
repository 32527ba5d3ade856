import numpy as np
import pytest
from scipy.stats import gmean, ttest_1samp
from support.trial_cases import trial_of

from penultimate.engine.analysis.curves.convergence import (
    budget_curves,
    first_to_fraction,
    geometric_mean,
    speed,
    speedup,
    threshold_budget,
)
from penultimate.store.errors import InputError
from penultimate.store.trials.trial import Trial


def _run(method: str, step: int, wrong: int, dataset: str = "digits") -> Trial:
    return trial_of(
        method=method,
        wrong=range(wrong),
        num_test=1000,
        history=[{"step": 1, "epoch": 0.1}, {"step": step, "epoch": step / 10}],
        settings={"steps": step},
        dataset=dataset,
    )


def test_the_threshold_is_on_odds_not_on_accuracy() -> None:
    # Largest odds 0.95 / 0.05 = 19, nine tenths 17.1: reached by 0.945 (17.18), not by 0.94 (15.67), though 0.94 is
    # more than nine tenths of the accuracy.
    assert first_to_fraction([0.5, 0.94, 0.945, 0.95], num_test=10_000) == 2


def test_the_first_budget_counts_even_where_a_later_one_falls_below() -> None:
    assert first_to_fraction([0.9, 0.5, 0.9, 0.901], num_test=10_000) == 0


def test_a_perfect_score_has_odds_too() -> None:
    # 1.0 of 100 counts as 199 to 1; 0.99 as 99 to 1.
    assert first_to_fraction([0.99, 1.0], num_test=100) == 1


def test_curves_come_from_the_last_row_of_each_history() -> None:
    trials = [_run("scratch", step, wrong) for step, wrong in [(400, 90), (100, 500), (200, 100)]]
    (curve,) = budget_curves([*trials, trial_of()])
    assert curve.steps_B.tolist() == [100, 200, 400]
    assert curve.epochs_B.tolist() == [10, 20, 40]
    assert curve.accuracy_B == pytest.approx([0.5, 0.9, 0.91])
    # 0.9 x 0.91 / 0.09 = 9.1 > 0.9 / 0.1 = 9.
    assert (threshold_budget(curve).steps, threshold_budget(curve).at_smallest_budget) == (400, False)
    assert threshold_budget(curve).at_largest_budget


def test_subsets_are_no_budgets_and_settings_have_a_curve_each() -> None:
    def run(step: int, **settings: object) -> Trial:
        return trial_of(method="finetune", history=[{"step": step, "epoch": 1.0}], settings={"steps": step, **settings})

    few = [run(5, shots=2, label_smoothing=0.0), run(6, shots=2, label_smoothing=0.0)]
    smoothed = [run(step, label_smoothing=0.1, eval_every=step) for step in (10, 20)]
    plain = [run(step, label_smoothing=0.0, eval_every=step) for step in (10, 20)]
    curves = {curve.line: curve.steps_B.tolist() for curve in budget_curves([*few, *smoothed, *plain])}
    assert curves == {"finetune (label_smoothing=0.0)": [10, 20], "finetune (label_smoothing=0.1)": [10, 20]}


def test_a_single_budget_is_no_curve() -> None:
    assert budget_curves([_run("scratch", 100, 10)]) == []


def test_a_trained_network_without_steps_is_refused() -> None:
    with pytest.raises(InputError, match="no step and epoch"):
        budget_curves([trial_of(method="finetune", history=[{"loss": 1.0}])])


def test_speedup_is_the_ratio_of_geometric_means_over_what_both_have() -> None:
    # Reached by fine-tuning at 10 and 40 (mean 20), from scratch at 160 and 640 (mean 320); a third has scratch alone.
    plan = [
        ("finetune", "a", 10),
        ("finetune", "b", 40),
        ("scratch", "a", 160),
        ("scratch", "b", 640),
        ("scratch", "c", 9),
    ]
    when = [
        threshold_budget(curve)
        for method, dataset, step in plan
        for curve in budget_curves(
            [
                _run(method, step // 2, 500, dataset=dataset),
                _run(method, step, 100, dataset=dataset),
            ]
        )
    ]
    got = speedup(when)
    assert got is not None
    assert [got.steps, got.epochs, got.num_pairs] == pytest.approx([16, 16, 2])
    assert got.steps_interval == pytest.approx((16, 16))  # sixteen times in both
    scratch = speed([each for each in when if each.method == "scratch" and each.dataset != "c"])
    assert scratch.steps == pytest.approx(320)
    assert scratch.steps_quartiles == pytest.approx(tuple(np.quantile([160, 640], [0.25, 0.75])))


def test_an_interval_is_that_of_the_mean_logarithm() -> None:
    values = [4.0, 16.0, 64.0, 20.0]
    mean, (low, high) = geometric_mean(values)
    assert mean == pytest.approx(gmean(values))
    expected = ttest_1samp(np.log(values), 0).confidence_interval(0.95)
    assert (np.log(low), np.log(high)) == pytest.approx((expected.low, expected.high))
    assert np.isnan(geometric_mean([7.0])[1]).all()


@pytest.mark.parametrize(
    ("tuned", "scratch", "is_bound"),
    [
        ((500, 100, 95), (500, 100, 95), False),  # both settled in between
        ((500, 100, 95), (500, 400, 100), True),  # from scratch it still rises
        ((100, 95, 95), (500, 100, 95), True),  # fine-tuned it was there at once
        ((500, 400, 100), (500, 400, 100), False),  # both still rise
        ((100, 95, 95), (100, 95, 95), False),
    ],
)
def test_a_ratio_bounds_from_below_where_it_can_only_grow(
    tuned: tuple[int, ...], scratch: tuple[int, ...], is_bound: bool
) -> None:
    runs = {"finetune": tuned, "scratch": scratch}
    curves = [
        curve
        for method, wrong in runs.items()
        for curve in budget_curves([_run(method, step, count) for step, count in zip((10, 20, 40), wrong, strict=True)])
    ]
    got = speedup([threshold_budget(curve) for curve in curves])
    assert got is not None
    assert got.is_lower_bound is is_bound


def test_nothing_trained_both_ways_has_no_speedup() -> None:
    curves = budget_curves([_run("scratch", step, 9) for step in (1, 2)])
    assert speedup([threshold_budget(curve) for curve in curves]) is None


def test_curves_of_two_methods_have_no_common_speed() -> None:
    curves = budget_curves([_run(m, step, 9) for m in ("scratch", "finetune") for step in (1, 2)])
    with pytest.raises(InputError, match="one method"):
        speed([threshold_budget(curve) for curve in curves])
