import json

import numpy as np
import pytest
from scipy.stats import ttest_rel
from support.trial_cases import trial_of

from penultimate.engine.analysis.scoreboard import scoreboard
from penultimate.store.errors import InputError
from penultimate.store.trials.trial import Trial


def test_a_row_has_what_the_json_of_show_promises() -> None:
    (row,) = scoreboard([trial_of()], imagenet={"a.in1k": 0.75}).row_dicts()
    promised = {"dataset", "backbone", "method", "metric", "value", "l2", "n_test", "converged"}
    assert promised <= set(row)
    assert (row["value"], row["l2"], row["n_test"], row["imagenet_top1"]) == (0.9, 0.01, 100, 0.75)
    assert json.loads(json.dumps([row], allow_nan=False))[0]["dataset"] == "digits"


def test_a_backbone_alone_is_its_own_best_without_a_test() -> None:
    (row,) = scoreboard([trial_of()]).rows
    assert row.is_best
    assert row.ties_with_best
    assert row.p_value is None
    assert row.adjusted_log_odds is None


def test_ties_are_those_that_mcnemar_cannot_tell_from_the_best() -> None:
    best = trial_of(backbone="best", wrong=range(10))
    near = trial_of(backbone="near", wrong=range(5, 17))  # 5 against 7 discordant samples
    far = trial_of(backbone="far", wrong=range(60))
    rows = {row.backbone: row for row in scoreboard([far, near, best]).rows}
    far_p, far_holm = rows["far"].p_value, rows["far"].p_value_holm
    assert rows["near"].p_value == pytest.approx(0.774, abs=5e-4)  # binomial(12, 1/2), two-sided at 5: by hand
    assert rows["near"].ties_with_best
    assert not rows["far"].ties_with_best
    assert far_p is not None
    assert far_holm == pytest.approx(2 * far_p)
    assert rows["best"].test is None


def test_adjusted_log_odds_of_a_panel_sum_to_zero() -> None:
    trials = [trial_of(backbone=name, wrong=range(n)) for name, n in (("a", 5), ("b", 20), ("c", 70))]
    rows = scoreboard(trials).rows
    adjusted = [row.adjusted_log_odds for row in rows if row.adjusted_log_odds is not None]
    assert len(adjusted) == 3
    assert sum(adjusted) == pytest.approx(0, abs=1e-12)  # three rounded numbers of size 1
    assert [row.backbone for row in rows] == ["a", "b", "c"]


def test_trials_that_differ_in_one_setting_are_told_apart_by_it() -> None:
    trials = [
        trial_of(settings={"loss": loss, "metric_of": dataset}, dataset=dataset)
        for loss in ("softmax", "ovr")
        for dataset in ("digits", "letters")
    ]
    rows = scoreboard(trials).rows
    assert {row.variant for row in rows} == {"loss=softmax", "loss=ovr"}
    assert len({row.trial for row in rows}) == 4


def test_trials_on_other_images_of_the_same_name_are_not_compared() -> None:
    here = trial_of(wrong=range(5))
    there = trial_of(backbone="b", wrong=range(50), features={"images": "other"})
    assert all(row.is_best for row in scoreboard([here, there]).rows)


def test_contenders_are_compared_over_the_datasets_all_of_them_share() -> None:
    wrong = {"a": (5, 9, 20), "b": (10, 17, 24), "c": (30, 40, 60)}
    trials = [
        trial_of(backbone=name, dataset=f"set{d}", wrong=range(n))
        for name, counts in wrong.items()
        for d, n in enumerate(counts)
    ]
    alone = trial_of(backbone="a", dataset="extra")
    board = scoreboard([*trials, alone], imagenet={"a": 0.8})
    assert [c.backbone for c in board.contenders] == ["a", "b", "c"]
    assert board.contenders[0].datasets == ("set0", "set1", "set2")
    assert "extra" in board.notes[0]
    assert "b, c" in board.notes[0]
    logits = {name: np.log([(100 - n) / n for n in counts]) for name, counts in wrong.items()}
    assert board.contenders[1].p_value == pytest.approx(ttest_rel(logits["b"], logits["a"]).pvalue)
    json.dumps(board.contender_dicts(), allow_nan=False)


def test_seeds_of_one_backbone_share_a_contender_and_keep_their_rows() -> None:
    trials = [trial_of(backbone=b, seed=s, wrong=range(n)) for b, s, n in [("a", 0, 5), ("a", 1, 15), ("b", 0, 9)]]
    board = scoreboard(trials)
    assert len(board.rows) == 3
    assert len(board.contenders) == 2
    a = next(c for c in board.contenders if c.backbone == "a")
    assert a.mean_log_odds == pytest.approx(np.log(90 / 10))  # of the mean accuracy, (95 + 85) / 2


def test_subsets_and_smaller_budgets_have_rows_but_no_part_in_the_means() -> None:
    def tuned(step: int, wrong: int, **settings: int) -> Trial:
        return trial_of(
            method="finetune", wrong=range(wrong), settings=settings, history=[{"step": step, "epoch": step / 10}]
        )

    whole = [tuned(100, 40, steps=100), tuned(400, 10, steps=400)]
    subset = [tuned(400, 60, steps=400, shots=5)]
    board = scoreboard([*whole, *subset])
    assert [(row.steps, row.shots, row.is_best) for row in board.rows] == [
        (400, None, True), (100, None, False), (400, 5, True)
    ]  # fmt: skip
    (only,) = board.contenders
    assert only.mean_log_odds == pytest.approx(np.log(90 / 10))


def test_what_did_not_converge_and_notes_reach_the_row() -> None:
    (row,) = scoreboard([trial_of(converged=False, notes=("2 strengths did not converge",))]).rows
    assert not row.converged
    assert row.notes == ("2 strengths did not converge",)


def test_the_order_of_trials_changes_nothing() -> None:
    trials = [
        trial_of(backbone=name, metric="mean_per_class", wrong=range(start, start + 12))
        for name, start in [("a", 0), ("b", 3), ("c", 8)]
    ]
    # Equal values: the first by name is the best in any order.
    assert scoreboard(trials).rows == scoreboard(trials[::-1]).rows


def test_a_trial_without_predictions_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"a\.in1k on digits kept no test_ids"):
        scoreboard([trial_of(arrays={"test_labels": np.arange(100) % 5, "test_predictions": np.arange(100) % 5})])


def test_two_networks_of_one_name_are_told_apart_by_their_weights_and_others_are_not() -> None:
    trials = [trial_of(backbone="a", features={"weights": w * 8}, seed=0) for w in ("1f", "2e")]
    rows = scoreboard([*trials, trial_of(backbone="b")]).rows
    assert {row.network for row in rows} == {"a (weights=1f1f1f1f)", "a (weights=2e2e2e2e)", "b"}
    assert {row.setting for row in rows} == {"probe"}
    assert len(scoreboard([*trials, trial_of(backbone="b")]).contenders) == 3


def test_a_path_of_other_strengths_for_few_images_is_no_other_variant() -> None:
    whole, few = {"l2": [1.0, 0.1]}, {"l2": [10.0, 1.0], "shots": 5}
    assert [row.variant for row in scoreboard([trial_of(settings=whole), trial_of(settings=few)]).rows] == ["", ""]
    two = scoreboard([trial_of(settings=whole), trial_of(settings={"l2": [10.0, 1.0]}, wrong=range(9))])
    assert all(row.variant.startswith("l2=") for row in two.rows)


def test_a_score_that_settings_were_chosen_by_is_named_where_trials_differ_in_it() -> None:
    plain, by_loss = trial_of(), trial_of(settings={"loss": "softmax", "choose_by": "log_loss"}, wrong=range(9))
    assert {row.variant for row in scoreboard([plain, by_loss]).rows} == {"choose_by=top1", "choose_by=log_loss"}
