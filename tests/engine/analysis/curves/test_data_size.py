from collections.abc import Mapping

import numpy as np
import pytest
from support.trial_cases import trial_of

from penultimate.engine.analysis.curves.data_size import SizeCurve, crossings, size_curves


def _curve(accuracy: Mapping[int, float]) -> SizeCurve:
    mean = np.array(list(accuracy.values()))
    return SizeCurve(
        dataset="d", images="d", backbone="b", variant="", method="m", metric="top1", num_classes=2,
        shots_S=np.array(list(accuracy)), mean_S=mean, standard_error_S=np.full(len(mean), np.nan),
        num_subsets_S=np.ones(len(mean), dtype=np.int64), log_odds_S=np.log(mean / (1 - mean)),
    )  # fmt: skip


def test_the_error_is_that_of_the_mean_over_subsets() -> None:
    trials = [
        trial_of(seed=seed, wrong=range(wrong), settings={"shots": shots})
        for shots, wrongs in ((10, (20, 30, 40)), (5, (50,)))
        for seed, wrong in enumerate(wrongs)
    ]
    (curve,) = size_curves([*trials, trial_of()])
    assert curve.shots_S.tolist() == [5, 10]
    assert curve.mean_S == pytest.approx([0.5, 0.7])
    assert curve.standard_error_S == pytest.approx([np.nan, 0.1 / np.sqrt(3)], nan_ok=True)
    assert curve.num_subsets_S.tolist() == [1, 3]


def test_a_loss_tried_beside_another_has_its_own_curve() -> None:
    trials = [trial_of(settings={"shots": k, "loss": loss}) for k in (1, 2) for loss in ("softmax", "svm")]
    assert [curve.label for curve in size_curves(trials)] == [
        "probe: a.in1k (loss=softmax)",
        "probe: a.in1k (loss=svm)",
    ]


def test_curves_that_swap_symmetrically_cross_at_the_geometric_middle() -> None:
    first, second = _curve({4: 0.6, 16: 0.7}), _curve({4: 0.5, 16: 0.78})
    mirrored = _curve({4: 0.5, 16: 0.6}), _curve({4: 0.4, 16: 0.7})
    (one,) = crossings(first, second)
    assert one.between == (4, 16)
    assert one.overtaken_by == "second"
    (half,) = crossings(*mirrored)  # logits +-0.405, 0 and 0.405, 0.847: leads 0.405 and -0.442
    share = np.log(1.5) / (np.log(1.5) + np.log(7 / 3) - np.log(1.5))
    assert half.shots == pytest.approx(4 * 4**share)


def test_curves_that_never_swap_do_not_cross() -> None:
    assert crossings(_curve({1: 0.3, 2: 0.4}), _curve({1: 0.2, 2: 0.4})) == []


def test_only_sizes_that_both_have_count() -> None:
    assert crossings(_curve({1: 0.3, 8: 0.9}), _curve({1: 0.2, 4: 0.95})) == []


def test_a_tie_on_the_way_belongs_to_the_crossing() -> None:
    (one,) = crossings(_curve({1: 0.3, 2: 0.4, 4: 0.5}), _curve({1: 0.2, 2: 0.4, 4: 0.6}))
    assert one.between == (1, 4)
