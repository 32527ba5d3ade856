from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penultimate.engine.images.load import load_images
from penultimate.store.errors import InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (30, 8, 6, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3
SEVERAL = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 1]], np.uint8)[LABELS]


def npz(path: Path, **arrays: Any) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


def test_images_and_labels_of_an_archive_are_split_by_fraction(tmp_path: Path) -> None:
    images = load_images(npz(tmp_path / "tiny.npz", images=RGB, labels=LABELS, class_names=["ant", "bee", "cat"]))
    assert images.name == "tiny"
    assert images.class_names == ("ant", "bee", "cat")
    assert Counter(images.split_N.tolist()) == {"train": 18, "val": 6, "test": 6}
    for index in range(30):
        np.testing.assert_array_equal(images.source.read(index), RGB[index])
    assert images.labels_N.tolist() == LABELS.tolist()


@pytest.mark.parametrize("names", [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_splits_named_as_keras_and_medmnist_do_are_kept(tmp_path: Path, names: tuple[str, str]) -> None:
    parts = {"train": slice(0, 12), "val": slice(12, 18), "test": slice(18, 30)}
    arrays: dict[str, Any] = {names[0].format(split): RGB[part] for split, part in parts.items()}
    arrays |= {names[1].format(split): LABELS[part, None] for split, part in parts.items()}
    images = load_images(npz(tmp_path / "med.npz", **arrays))
    assert Counter(images.split_N.tolist()) == {"train": 12, "val": 6, "test": 12}
    for index, id_ in enumerate(images.ids_N.tolist()):
        split, row = id_.split("/")
        np.testing.assert_array_equal(images.source.read(index), RGB[parts[split]][int(row)])
        assert images.split_N[index] == split


def test_grayscale_and_channels_first_become_rgb(tmp_path: Path) -> None:
    for array in (RGB[..., 0], RGB[..., :1]):
        images = load_images(npz(tmp_path / "gray.npz", images=array), labels=False)
        np.testing.assert_array_equal(images.source.read(7), np.repeat(RGB[7, :, :, :1], 3, axis=2))
    images = load_images(npz(tmp_path / "first.npz", images=RGB.transpose(0, 3, 1, 2)), labels=False)
    np.testing.assert_array_equal(images.source.read(7), RGB[7])


def test_a_npy_is_mapped_and_finds_its_labels_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", RGB)
    with pytest.raises(InputError, match="'images' but no 'labels'"):
        load_images(str(tmp_path / "train.npy"))
    np.save(tmp_path / "labels.npy", LABELS)
    images = load_images(str(tmp_path / "train.npy"))
    assert images.labels_N.tolist() == LABELS.tolist()
    np.testing.assert_array_equal(images.source.read(29), RGB[29])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": RGB}, "has no images: expected 'images', 'x_train' or 'train_images'"),
        ({"images": RGB.astype(np.float32), "labels": LABELS}, "not float32 of"),
        ({"images": RGB[..., :2], "labels": LABELS}, r"not uint8 of \(30, 8, 6, 2\)"),
        ({"images": RGB, "labels": LABELS[:-1]}, r"not int64 of \(29,\)"),
        ({"images": RGB, "labels": 2 * np.eye(30, 3, dtype=np.int64)}, r"matrix of 0 and 1 .*not int64 of \(30, 3\)"),
        ({"images": RGB, "labels": np.full((30, 3), np.nan)}, r"not float64 of \(30, 3\)"),
        ({"images": RGB, "labels": np.eye(3, dtype=np.uint8)[LABELS]}, r"has one 1: .*argmax.*--multi-label"),
        ({"images": RGB, "labels": SEVERAL, "class_names": ["a", "b"]}, "2 class names, and 3 columns"),
        (
            {"x_train": RGB, "y_train": SEVERAL, "x_test": RGB, "y_test": SEVERAL[:, :2]},
            r"alike in all splits.*\(30, 2\), \(30, 3\)",
        ),
        (
            {"x_train": RGB, "y_train": SEVERAL, "x_test": RGB, "y_test": 0 * SEVERAL},
            "no image of test shows any class",
        ),
        (
            {"x_train": RGB, "y_train": SEVERAL * [1, 1, 0], "x_test": RGB, "y_test": SEVERAL},
            "test has classes that train lacks.*: 2",
        ),
        ({"images": RGB, "labels": LABELS, "class_names": ["a", "b"]}, "2 class names, got 0 to 2"),
        ({"x_train": RGB, "y_train": LABELS, "x_test": RGB[:, 1:], "y_test": LABELS}, "differ in size"),
        ({"images": np.array([{"a": 1}], dtype=object)}, "cannot read the arrays.*allow_pickle"),
    ],
)
def test_arrays_that_are_no_images_are_explained(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_images(npz(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float32"])
def test_a_matrix_of_zeros_and_ones_is_several_labels_an_image(tmp_path: Path, dtype: str) -> None:
    images = load_images(npz(tmp_path / "chest.npz", images=RGB, labels=SEVERAL.astype(dtype)))
    assert (images.metric, images.class_names, str(images.labels_N.dtype)) == ("map11", ("0", "1", "2"), "uint8")
    np.testing.assert_array_equal(images.labels_N, SEVERAL)
    assert Counter(images.split_N.tolist()) == {"train": 18, "val": 6, "test": 6}


def test_splits_keep_their_rows_of_the_matrix_and_classes_their_names(tmp_path: Path) -> None:
    arrays = {"train_images": RGB, "train_labels": SEVERAL, "test_images": RGB[::-1], "test_labels": SEVERAL[::-1]}
    images = load_images(npz(tmp_path / "chest.npz", **arrays, class_names=["calm", "ill", "old"]))
    assert images.class_names == ("calm", "ill", "old")
    np.testing.assert_array_equal(images.labels_N, np.concatenate([SEVERAL[::-1], SEVERAL]))
    assert set(images.split_N[:30].tolist()) == {"test"}


def test_a_single_one_in_every_row_is_several_labels_if_that_is_asked(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", images=RGB, labels=np.eye(3, dtype=np.uint8)[LABELS])
    images = load_images(path, multi_label=True)
    assert images.metric == "map11"
    np.testing.assert_array_equal(images.labels_N.argmax(axis=1), LABELS)
    np.save(tmp_path / "images.npy", RGB)
    np.save(tmp_path / "labels.npy", SEVERAL)
    np.testing.assert_array_equal(load_images(str(tmp_path / "images.npy")).labels_N, SEVERAL)
    with pytest.raises(InputError, match=r"--multi-label\) are a matrix .* have the shapes \(30,\)"):
        load_images(npz(tmp_path / "b.npz", images=RGB, labels=LABELS), multi_label=True)


def test_a_damaged_archive_is_said(tmp_path: Path) -> None:
    path = Path(npz(tmp_path / "a.npz", images=RGB, labels=LABELS))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot read the arrays"):
        load_images(str(path))
