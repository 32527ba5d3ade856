"""A store and a trial log of format 1, made by commit 7a5ffc1 (data/format1/README.md), stay readable."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penultimate.cli.main import run
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.format.contents import UNKNOWN, content_of
from penultimate.store.format.layout import Strings, variable_width
from penultimate.store.format.reading import read_array
from penultimate.store.key import FeatureKey
from penultimate.store.objects.local import LocalObjects
from penultimate.store.plan import Plan
from penultimate.store.trials.trial_log import TrialLog
from penultimate.store.upkeep.verify import verify
from penultimate.store.writer.feature_writer import FeatureWriter

FORMAT1 = Path(__file__).parents[1] / "data" / "format1"

IMAGES = FeatureKey(
    dataset="images",
    images="a2a614b0b018cf9c",
    backbone="mobilenetv3_small_050.random0",
    weights="136f5faa951b6cdfe99bf8fd39305ede",
    preprocess="4cf3de0cfb5f3929",
    decoder="dali",
    precision="float32",
    dtype="float32",
)
ANIMALS = replace(IMAGES, dataset="animals", images="6b6c2bd58c8317a3", decoder="pillow", dtype="float16")

IMAGES_SPLIT = ["train"] * 24
for row in (2, 4, 9, 11, 18):
    IMAGES_SPLIT[row] = "val"
for row in (3, 6, 14, 15, 16, 17):
    IMAGES_SPLIT[row] = "test"


@pytest.fixture(scope="module")
def store() -> FeatureStore:
    return FeatureStore(FORMAT1 / "features.zarr")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a writable copy."""
    return Path(shutil.copytree(FORMAT1, tmp_path / "format1"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_store_opens_and_every_byte_is_as_written(store: FeatureStore) -> None:
    assert store.keys() == [ANIMALS, IMAGES]
    assert (IMAGES.digest, ANIMALS.digest) == ("6d65452f57b0d380", "605b69a7d07c5868")
    assert store.incomplete() == []
    assert verify(store) == []


def test_single_labels_splits_ids_and_failures_are_those_recorded(store: FeatureStore) -> None:
    features = store.read(IMAGES)
    assert (features.class_names, features.metric) == (("cat", "dog", "owl"), "top1")
    assert features.ids.tolist() == [f"{name}/{number:02d}.jpg" for name in features.class_names for number in range(8)]
    assert features.labels.dtype == np.int64
    assert features.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert features.split.tolist() == IMAGES_SPLIT
    assert features.failed == {"owl/broken.jpg": "OSError: Truncated File Read"}


def test_several_labels_are_those_recorded(store: FeatureStore) -> None:
    features = store.read(ANIMALS)
    assert (features.class_names, features.metric) == (("cat", "dog", "night", "owl"), "map11")
    assert features.labels.dtype == np.uint8
    night = [index for index, label in enumerate(features.labels[:, 2].tolist()) if label]
    assert night == list(range(0, 24, 3))
    assert features.labels[:, [0, 1, 3]].argmax(axis=1).tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert features.split.tolist() == [("train", "train", "train", "val", "test")[row % 5] for row in range(24)]
    assert features.failed == {"images/owl/broken.jpg": "OSError: Truncated File Read"}


def test_no_content_of_a_sample_is_known(store: FeatureStore) -> None:
    assert store.read(IMAGES).contents.tolist() == [[0, 0, 0]] * 24


@pytest.mark.parametrize(
    ("key", "dtype", "checksum"),
    [(IMAGES, "float32", "eeb3a8a332f53f69acbba775c2fa136d"), (ANIMALS, "float16", "f0cdf6ea9989c24471c34f78165bb124")],
    ids=["float32", "float16"],
)
def test_the_features_are_those_recorded(store: FeatureStore, key: FeatureKey, dtype: str, checksum: str) -> None:
    features_ND = store.read(key).features
    assert (features_ND.shape, str(features_ND.dtype)) == ((24, 1024), dtype)
    assert layout.values_checksum(features_ND) == checksum
    streamed = np.concatenate([batch_BD for _, batch_BD in store.read(key).batches(7)])
    np.testing.assert_array_equal(streamed, features_ND)


def contents_in(images: Path, ids: Strings) -> NDArray[np.uint64]:
    """Return the contents of the images with these ids, UNKNOWN for those that are not there."""
    files = [images / id_ for id_ in ids.tolist()]
    contents = [content_of(file.read_bytes()) if file.exists() else UNKNOWN for file in files]
    return np.array(contents, np.uint64)


def kill_after_the_first_and_third_shard(store: Path) -> None:
    """Leave what a kill left in format 1: two of three shards, and nothing of what completes a key."""
    objects = LocalObjects(store)
    for name in (layout.METADATA, layout.commit_object(1), layout.shard_object(1)):
        objects.delete(f"{IMAGES.path}/{name}")
    objects.delete_folder(f"{IMAGES.path}/{layout.FAILED}")


def plan_of(store: FeatureStore, key: FeatureKey, **changes: Any) -> Plan:
    """Return the plan of the extraction that made a key."""
    ids, labels, split = (read_array(store.objects, f"{key.path}/{name}") for name in ("ids", "labels", "split"))
    info = store.info(key)
    given: dict[str, Any] = {
        "dataset": key.dataset,
        "embedding": key.embedding,
        "ids_M": ids,
        "labels_M": labels,
        "split_M": split,
        "class_names": tuple(info["class_names"]),
        "metric": info["metric"],
        "feature_dim": info["feature_dim"],
        "shard_rows": info["shard_rows"],
    }
    return Plan(**(given | changes))


def rows_needed(writer: FeatureWriter, images: Path, features: FeatureSet) -> list[int]:
    """Offer all samples, append those that are needed from ``features``, and return them."""
    contents_M3 = contents_in(images, writer.plan.ids_M)
    samples = writer.missing_samples
    needed = samples[writer.offer(samples, contents_M3)]
    index_of = {id_: row for row, id_ in enumerate(features.ids.tolist())}
    rows = {sample: index_of.get(str(writer.plan.ids_M[sample])) for sample in needed.tolist()}
    there = [sample for sample, row in rows.items() if row is not None]
    values = features.features[[row for row in rows.values() if row is not None]]
    writer.append(there, values, {sample: "truncated" for sample, row in rows.items() if row is None})
    return [*map(int, needed)]


def test_rows_of_a_killed_format_1_extraction_are_found_again_and_nothing_else(store: FeatureStore, work: Path) -> None:
    kill_after_the_first_and_third_shard(work / "features.zarr")
    before = files(work / "features.zarr" / IMAGES.path)
    resumed, features = FeatureStore(work / "features.zarr"), store.read(IMAGES)
    (begun,) = resumed.incomplete()
    assert (begun.digest, begun.done_rows, begun.num_rows) == (IMAGES.digest, 15, 25)
    plan = plan_of(store, IMAGES)
    contents_of = partial(contents_in, work / "images")
    with resumed.writer(plan, provenance={}, contents_of=contents_of) as writer:
        assert rows_needed(writer, work / "images", features) == [*range(10, 20)]
    assert writer.key == IMAGES
    again = resumed.read(IMAGES)
    np.testing.assert_array_equal(again.features, features.features, strict=True)
    assert again.ids.tolist() == features.ids.tolist()
    assert again.failed == features.failed
    assert [source["path"] for source in resumed.info(IMAGES)["sources"]][1:] == [IMAGES.path]
    after = files(work / "features.zarr" / IMAGES.path)
    assert {name: after[name] for name in before} == before
    assert verify(resumed) == []


@pytest.mark.parametrize("change", ["another file", "an unknown file", "not asked"])
def test_rows_of_format_1_are_not_found_where_the_contents_do_not_prove_the_digest(
    store: FeatureStore, work: Path, change: str
) -> None:
    file = work / "images" / "cat" / "03.jpg"
    if change == "another file":
        file.write_bytes(file.read_bytes() + b"x")
    if change == "an unknown file":
        file.unlink()
    contents_of = None if change == "not asked" else partial(contents_in, work / "images")
    plan = plan_of(store, IMAGES, split_M=variable_width(["train"] * 25))
    with FeatureStore(work / "features.zarr").writer(plan, provenance={}, contents_of=contents_of) as writer:
        known = contents_in(work / "images", plan.ids_M)
        assert writer.offer(np.arange(25), known).sum() == 25


def test_rows_of_format_1_serve_a_set_that_grew_was_renamed_and_split_anew(store: FeatureStore, work: Path) -> None:
    """The contents known under the ids of format 1 prove its rows, which other ids, labels and splits then refer to."""
    features, grown = store.read(IMAGES), FeatureStore(work / "features.zarr")
    ids = [f"renamed/{number}" for number in range(25)]
    plan = plan_of(
        store, IMAGES, ids_M=variable_width(ids), split_M=variable_width(["train"] * 25), labels_M=np.zeros(25, "i8")
    )
    contents_of = partial(contents_in, work / "images")
    with grown.writer(plan, provenance={}, contents_of=contents_of) as writer:
        ids_of_format_1 = read_array(store.objects, f"{IMAGES.path}/ids")
        assert not writer.offer(np.arange(25), contents_in(work / "images", ids_of_format_1)).any()
    assert writer.key is not None
    np.testing.assert_array_equal(grown.read(writer.key).features, features.features, strict=True)
    assert grown.read(writer.key).ids.tolist() == ids[:24]
    assert grown.read(writer.key).failed == {ids[24]: "OSError: Truncated File Read"}


def test_the_trials_are_those_recorded() -> None:
    trials = TrialLog(FORMAT1 / "trials").trials()
    assert [(trial.id, trial.method, trial.dataset, trial.value) for trial in trials] == [
        ("010d07ff5ee708fd", "probe", "animals", 0.8333333333333334),
        ("a39518f60963b00c", "probe", "images", 1.0),
        ("5d10bb2c7ad0a314", "scratch", "images", 0.3333333333333333),
    ]
    assert [trial.chosen for trial in trials[:2]] == [{"l2": 0.01}, {"l2": 0.01}]
    assert trials[2].chosen == {"learning_rate": 0.01, "weight_decay": 0.0001}
    assert trials[0].arrays["test_scores"].shape == (4, 4)
    assert trials[1].arrays["test_labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert trials[1].arrays["test_predictions"].tolist() == [0, 0, 1, 1, 2, 2]


COMMANDS = {
    "probe": ["probe", "{work}/features.zarr", "--trials", "{work}/trials", "--l2", "1e-2:1e2:3"],
    "train": [
        *(
            "train",
            "{work}/images",
            "-m",
            "mobilenetv3_small_050.lamb_in1k",
            "--init",
            "random",
            "--out",
            "{work}/runs",
        ),
        *("--trials", "{work}/trials", "--learning-rate", "0.01", "--weight-decay", "1e-4", "--steps", "2"),
        *("--batch-size", "4", "--size", "32", "--set", "decoder=pillow", "--no-retrain"),
    ],
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_trials_that_are_there_are_not_fitted_again(work: Path, verb: str) -> None:
    arguments = [part.format(work=work) for part in COMMANDS[verb]]
    assert run(arguments) == 0
    assert files(work / "trials") == files(FORMAT1 / "trials")
    assert not list(work.glob("runs/*/*"))  # no checkpoint: no network was trained


EXTRACT_ANIMALS = [
    *("extract", "{work}/animals.csv", "--store", "{work}/features.zarr", "--model", "mobilenetv3_small_050"),
    *("--weights", "random", "--multi-label", "--set", "dtype=float16", "--set", "shard_rows=10"),
    *("--decoder", "pillow", "--no-cache", "--json"),
]


@pytest.mark.parametrize("parity", ["--parity", "--no-parity"])  # whose images are read before all others
def test_features_that_are_there_are_not_embedded_again(
    work: Path, parity: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([part.format(work=work) for part in EXTRACT_ANIMALS] + [parity]) == 0
    keys = FeatureStore(work / "features.zarr").keys()
    # Everything that enters a key but the weights: another torch may draw other numbers from the same seed.
    assert {replace(key, weights=ANIMALS.weights) for key in keys} == {ANIMALS, IMAGES}
    if len(keys) != 2:
        pytest.skip("this torch draws other random weights than 2.15.0: other features were asked for")
    assert files(work / "features.zarr") == files(FORMAT1 / "features.zarr")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["rows"], row["reused"], row["embedded"], row["failed"]) == (24, 24, 0, 1)


def test_a_set_of_format_1_that_grew_embeds_what_is_new(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (work / "animals.csv").open("a") as manifest:
        first = (work / "animals.csv").read_text().splitlines()[1]
        manifest.write(first.replace("images/cat/00.jpg", "images/cat/new.jpg") + "\n")
    content = (work / "images" / "cat" / "00.jpg").read_bytes()
    (work / "images" / "cat" / "new.jpg").write_bytes(content + b"x")  # what comes after a JPEG is not decoded
    assert run([part.format(work=work) for part in EXTRACT_ANIMALS] + ["--no-parity"]) == 0
    opened = FeatureStore(work / "features.zarr")
    if opened.keys()[0].weights != ANIMALS.weights:
        pytest.skip("this torch draws other random weights than 2.15.0: other features were asked for")
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["rows"], row["reused"], row["embedded"], row["failed"]) == (25, 24, 1, 1)
    (key,) = set(opened.keys()) - {ANIMALS, IMAGES}
    old, new = opened.read(ANIMALS), opened.read(key)
    kept = new.ids != "images/cat/new.jpg"
    np.testing.assert_array_equal(new.features[kept], old.features)
    assert verify(opened) == []
