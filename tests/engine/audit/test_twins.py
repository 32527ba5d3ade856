"""Twins across splits and sets: equal images by content, near ones by features, and what is said of scores."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from support.audit_cases import clustered, edited, with_contents
from support.trial_cases import trial_of

from penultimate.engine.audit.leaks import leaked_test_ids, scores_without, trials_of, twin_shares
from penultimate.engine.audit.settings import AuditSettings
from penultimate.engine.audit.twins import Twins, find_twins
from penultimate.engine.metrics import top5
from penultimate.store.feature_set import FeatureSet
from penultimate.store.format.contents import UNREADABLE

COPIES = [(10, 3), (11, 3), (12, 3), (50, 40), (61, 60), (200, 100)]


def _pairs(twins: Twins) -> set[tuple[int, int]]:
    return set(zip(twins.first_P.tolist(), twins.second_P.tolist(), strict=True))


def _find(features: FeatureSet, *others: FeatureSet, ratio: float = 0.3) -> Twins:
    return find_twins(features, others, AuditSettings(ratio=ratio))


def _parts(sets: Sequence[FeatureSet]) -> list[tuple[int, str]]:
    return [(index, str(split)) for index, features in enumerate(sets) for split in features.split]


def _parts_with_an_equal(sets: Sequence[FeatureSet]) -> set[tuple[int, tuple[int, str]]]:
    """Return each row with each part (set and split) that has another row of equal content, by comparing all pairs."""
    contents, parts = np.concatenate([each.contents for each in sets]).tolist(), _parts(sets)
    found = set()
    for a, b in combinations(range(len(contents)), 2):
        if contents[a] == contents[b]:
            found |= {(a, parts[b]), (b, parts[a])}
    return found


@pytest.mark.parametrize("copies", [COPIES, [(row, 7) for row in range(20, 60)]], ids=["few", "forty of one image"])
def test_every_image_is_paired_with_each_part_that_has_an_equal_one(copies: list[tuple[int, int]]) -> None:
    features, other = clustered(copies=copies), clustered(seed=0, num=120, copies=[(20, 7), (21, 3)])
    twins = _find(features, other, ratio=0.001)
    parts = _parts([features, other])
    told = {
        (row, parts[twin])
        for a, b, equal in zip(twins.first_P.tolist(), twins.second_P.tolist(), twins.equal_P.tolist(), strict=True)
        if equal
        for row, twin in ((a, b), (b, a))
    }
    audited = {each for each in _parts_with_an_equal([features, other]) if each[0] < 300 or each[1][0] == 0}
    assert told == audited
    assert len(_pairs(twins)) == len(twins.first_P)


def test_near_and_equal_images_are_told_apart() -> None:
    features = clustered(copies=COPIES)
    as_if_recompressed = with_contents(features, [str(row) for row in range(300)])
    equal, near = _find(features), _find(as_if_recompressed)
    assert not near.equal_P.any()
    assert (near.distance_P < 1e-6).sum() == 6 + 3  # of four images, near ones are listed pair by pair
    assert {(a, b) for a, b in _pairs(equal) if {a, b} & {50, 61, 200}} == {(40, 50), (60, 61), (100, 200)}
    assert _pairs(equal) <= _pairs(near)
    assert (equal.distance_P[equal.equal_P] == 0).all()


def test_a_near_duplicate_of_an_equal_image_is_paired_with_its_copies_too() -> None:
    features = clustered(copies=[(200, 100)])
    rows_ND = features.features.copy()
    rows_ND[250] = rows_ND[100] + 0.001
    twins = _find(replace(features, array=rows_ND))
    assert {(100, 200), (100, 250), (200, 250)} <= _pairs(twins)
    assert dict(zip(zip(twins.first_P, twins.second_P, strict=True), twins.equal_P, strict=True))[(200, 250)] == 0


def test_images_that_could_not_be_read_or_whose_content_is_unknown_are_equal_to_none() -> None:
    features = clustered(num=60)
    contents_N3 = np.array([UNREADABLE, (0, 0, 0)] * 30, np.uint64)
    twins = _find(replace(features, read_contents=lambda: contents_N3))
    assert not twins.equal_P.any()


def test_copies_of_one_image_do_not_make_it_look_common() -> None:
    many = [(row, 7) for row in range(20, 60)]
    alone, crowded = _find(clustered()), _find(clustered(copies=many))
    assert crowded.kth_distance_N[7] == pytest.approx(alone.kth_distance_N[7], rel=0.2)
    assert crowded.kth_distance_N[20] == crowded.kth_distance_N[7] > 0.01


def test_a_projected_search_says_its_recall_by_set() -> None:
    twins = find_twins(clustered(), [clustered(seed=1)], AuditSettings(search="projected"))
    assert [name for name, _ in twins.recalls] == ["set 0", "set 1"]
    assert all(recall.num_rows == 300 for _, recall in twins.recalls)


def test_shares_count_images_not_pairs() -> None:
    split = np.array(["train"] * 150 + ["val"] * 50 + ["test"] * 100)
    features = edited(clustered(copies=[(201, 0), (202, 0), (203, 0), (1, 0), (204, 160)]), split_M=split)
    shares = twin_shares(_find(features, ratio=0.001)).set_index(["split", "twins_in_split"])
    assert shares["images"].to_dict() == {
        ("train", "train"): 2,
        ("train", "test"): 2,
        ("val", "test"): 1,
        ("test", "train"): 3,
        ("test", "val"): 1,
        ("test", "test"): 3,
    }
    assert (shares["images"] == shares["equal"]).all()
    assert shares.loc[("test", "train"), "share"] == 0.03
    assert leaked_test_ids(_find(features, ratio=0.001)) == [f"0/{row:04d}.jpg" for row in (201, 202, 203, 204)]


def test_twins_in_another_set_leak_nothing_into_this_ones_test() -> None:
    features = clustered()
    assert leaked_test_ids(_find(features, clustered())) == leaked_test_ids(_find(features))
    shares = twin_shares(_find(features, replace(clustered(), key=replace(features.key, dataset="other"))))
    assert shares[shares["twins_in_dataset"] == "other"]["images"].sum() >= 300


def test_scores_without_leaked_images_are_those_of_the_rest() -> None:
    trial = trial_of(wrong=range(10, 30))
    leaked = [f"digits/{row}.png" for row in range(10)] + ["digits/10.png"]
    (row,) = scores_without([trial], leaked).to_dict("records")
    assert (row["score"], row["images"]) == (0.8, 100)
    assert row["without"] == pytest.approx(70 / 89)
    assert row["images_without"] == 89
    assert row["score_low"] < row["score"] < row["score_high"]
    assert row["without_low"] < row["without"] < row["without_high"]


def test_scores_are_the_trials_own_where_nothing_leaks_and_absent_where_everything_does() -> None:
    for metric in ("top1", "mean_per_class"):
        trial = trial_of(metric=metric, wrong=range(7))
        (row,) = scores_without([trial], []).to_dict("records")
        assert row["score"] == row["without"] == pytest.approx(trial.value)
    (row,) = scores_without([trial_of()], [f"digits/{row}.png" for row in range(100)]).to_dict("records")
    assert (row["without"], row["images_without"]) == (None, 0)


def test_top5_without_leaks_is_of_the_scores_that_were_kept_and_absent_without_any() -> None:
    trial = trial_of(metric="top5", wrong=range(7))
    scores_NK = np.full((100, 8), -1, np.float16)
    scores_NK[np.arange(100), (trial.arrays["test_labels"] + np.arange(100) % 2) % 8] = 1  # true one first or last
    scores_NK[:, 5:] -= np.float16(3)
    kept = replace(trial, arrays={**trial.arrays, "test_class_scores": scores_NK})
    leaked = [f"digits/{row}.png" for row in range(50)]
    (own,) = scores_without([kept], leaked).to_dict("records")
    (row,) = scores_without([trial], leaked).to_dict("records")
    assert own["without"] == top5(scores_NK[50:].astype(np.float32), trial.arrays["test_labels"][50:])
    assert (row["score"], row["without"]) == (None, None)


def test_only_trials_of_these_images_count() -> None:
    features = clustered()
    mine = trial_of(features={"images": features.key.images})
    assert trials_of(features, [mine, trial_of()]) == [mine]
