"""The audit as a whole: its tables agree with each other and with the set, and it refuses what it cannot do."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.audit_cases import clustered, edited
from support.photographs import write_photos

import penultimate
from penultimate.engine.audit.audit import audit_set
from penultimate.engine.audit.settings import AuditSettings
from penultimate.store.errors import InputError, UnknownNameError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore

COPIES = [(10, 3), (11, 3), (50, 40)]


def test_the_nearest_pair_stands_first_and_names_both_images() -> None:
    features, other = clustered(copies=COPIES), replace(clustered(num=80), key=replace(clustered().key, dataset="b"))
    found = audit_set(features, [other], [], AuditSettings())
    twins = found.twins
    assert len(twins) == found.summary["twins"] > 80
    assert twins["kind"].tolist() == sorted(twins["kind"])
    assert twins[twins["kind"] == "near"]["distance"].is_monotonic_increasing
    split, label = (
        dict(zip(features.ids.tolist(), texts, strict=True)) for texts in (features.split, features.class_texts())
    )
    assert [split[image] for image in twins["image"]] == twins["split"].tolist()
    assert [label[image] for image in twins["image"]] == twins["label"].tolist()
    theirs = dict(zip(other.ids.tolist(), other.split.tolist(), strict=True))
    rows = twins[twins["other_dataset"] == "b"]
    assert [theirs[image] for image in rows["other"]] == rows["other_split"].tolist()
    own = twins[(twins["other_dataset"] == "set 0") & (twins["kind"] == "equal")]
    assert set(zip(own["image"], own["other"], strict=True)) >= {("0/0040.jpg", "0/0050.jpg")}


def test_the_classes_add_up_and_name_the_splits_that_lack_one() -> None:
    features = clustered(num=200)
    labels_N = features.labels.copy()
    labels_N[(labels_N == 2) & (features.split == "val")] = -1
    classes = audit_set(edited(features, labels_M=labels_N), [], [], AuditSettings()).classes
    assert classes["total"].sum() == 200
    assert classes["share"].sum() == pytest.approx(1)
    assert (classes[["train", "val", "test"]].sum(axis=1) == classes["total"]).all()
    assert classes["class"].tolist()[-1] == "(no label)"
    assert classes.set_index("class")["lacking"]["class 2"] == "val"
    assert (classes["lacking"] == "").sum() >= 4


def test_images_with_several_labels_are_counted_in_each() -> None:
    features = clustered(num=100)
    labels_NK = np.zeros((100, 5), np.uint8)
    labels_NK[np.arange(90), features.labels[:90]] = 1
    labels_NK[:40, 0] = 1
    labels_NK[5, 1] = 2  # difficult
    found = audit_set(edited(features, labels_M=labels_NK), [], [], AuditSettings())
    assert found.classes.set_index("class")["total"]["(no label)"] == 10
    assert found.classes.set_index("class")["total"].to_dict() == {
        **{f"class {k}": int((labels_NK[:, k] == 1).sum()) for k in range(5)},
        "(no label)": 10,
    }


def test_the_farthest_image_is_listed_first() -> None:
    features = clustered()
    rows_ND = features.features.copy()
    rows_ND[77] = -rows_ND[77] * np.where(np.arange(24) % 2, 30, -30)
    outliers = audit_set(replace(features, array=rows_ND), [], [], AuditSettings()).outliers
    assert outliers["image"][0] == "0/0077.jpg"
    assert bool(outliers["beyond_fence"][0])
    assert len(outliers) == 3
    assert outliers["distance"].is_monotonic_decreasing


def test_images_that_failed_are_listed_with_their_reason() -> None:
    failed = np.array([""] * 99 + ["OSError: truncated"], dtype=np.dtypes.StringDType())
    found = audit_set(edited(clustered(num=100), failed_M=failed), [], [], AuditSettings())
    assert found.unreadable.to_dict("records") == [{"image": "0/0099.jpg", "reason": "OSError: truncated"}]
    assert found.summary["images"] == 99


def test_everything_has_a_json_form_without_nan() -> None:
    audited = audit_set(clustered(copies=COPIES), [], [], AuditSettings())
    found = audited.as_json()
    assert json.loads(json.dumps(found, allow_nan=False))["twins"] == audited.twins.to_dict("records")
    assert set(found) == {
        "summary", "twins", "leaks", "scores", "label_issues", "outliers", "unreadable", "classes", "notes"
    }  # fmt: skip


def test_the_seed_does_not_change_what_an_exact_search_finds() -> None:
    first, second = (audit_set(clustered(copies=COPIES), [], [], AuditSettings(seed=seed)) for seed in (0, 5))
    assert first.twins.equals(second.twins)


def test_a_set_without_images_is_refused() -> None:
    empty = FeatureSet.of(np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, "<U5"))
    with pytest.raises(InputError, match="nothing to audit"):
        audit_set(empty, [], [], AuditSettings())


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two datasets by one network and one of them by another."""
    folder = tmp_path_factory.mktemp("two_sets")
    photos, store = write_photos(folder / "photos"), str(folder / "two.zarr")
    how: dict[str, Any] = {"store": store, "weights": "random", "parity": False}
    penultimate.extract(photos, model="test_vit", **how)
    (photos / "cat" / "00.jpg").rename(photos / "cat" / "first.jpg")
    renamed = photos.rename(folder / "renamed")
    for model in ("test_vit", "test_resnet"):
        penultimate.extract(renamed, model=model, **how)
    return store


def test_sets_of_a_store_are_compared_by_content(two_sets: str) -> None:
    found = penultimate.audit(two_sets, dataset="photos", against=["renamed"])
    across = found.twins[found.twins["other_dataset"] == "renamed"]
    equal = across[across["kind"] == "equal"]
    assert len(equal) == 24
    assert set(equal[equal["image"] != equal["other"]]["other"]) == {"cat/first.jpg"}
    assert found.leaks[found.leaks["twins_in_dataset"] == "renamed"]["images"].sum() >= 24


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "expected one set of features, and 3 match"),
        ({"dataset": "renamed"}, "2 match.*--dataset, --backbone and --readout"),
        ({"dataset": "photo"}, "no complete features"),
        ({"dataset": "photos", "against": ["rename"]}, "did you mean renamed"),
        ({"dataset": "photos", "against": ["photos"]}, "no other dataset"),
        ({"dataset": "photos", "ratio": 2}, "ratio"),
        ({"dataset": "photos", "serch": "exact"}, "search"),
        ({"dataset": "photos", "trials": "nowhere"}, "no trial log"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(two_sets: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        penultimate.audit(two_sets, **asked)
    assert "\n" not in str(raised.value)


def test_a_set_that_was_embedded_otherwise_cannot_be_compared(two_sets: str) -> None:
    store = FeatureStore(two_sets)
    (key,) = [key for key in list(store.keys()) if key.backbone.startswith("test_resnet")]
    with pytest.raises(InputError, match="embedded as renamed by test_resnet"):
        penultimate.audit(two_sets, dataset="renamed", backbone="test_resnet*", against=["photos"])
    with pytest.raises(UnknownNameError):
        penultimate.audit(two_sets, dataset="renamed", backbone="test_resnet*", against=[key.digest])
    with pytest.raises(InputError, match="against names datasets of a store"):
        penultimate.audit(store.read(key), against=["photos"])
