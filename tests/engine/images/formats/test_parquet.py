import json
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from penultimate.engine.images.load import load_images
from penultimate.store.errors import InputError, VanishedImageError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = ["airplane", "ant", "bee"]


def hugging_face(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[Any] | None,
    *,
    names: list[str] | None = CLASSES,
    wrapped: Callable[[Any], Any] | None = None,
) -> Path:
    """Write a file as ``datasets`` writes it, with schema metadata and 4 rows a group instead of 100."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": image, "path": f"{n}.png"} for n, image in enumerate(images)], IMAGE)
    }
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels)
        features["label"] = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "string", "_type": "Value"}
    if wrapped is not None:
        features["label"] = wrapped(features["label"])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=4)
    return path


def rows(first: int, count: int) -> list[bytes]:
    return [f"image {number}".encode() for number in range(first, first + count)]


def test_rows_of_a_dataset_repository_come_with_class_names_and_splits(tmp_path: Path) -> None:
    for split, first, count in (("train", 0, 27), ("test", 100, 9)):
        for part in range(3):
            rows_per_part = count // 3
            path = tmp_path / "data" / f"{split}-0000{part}-of-00003.parquet"
            hugging_face(path, rows(first + part * rows_per_part, rows_per_part), [n % 3 for n in range(rows_per_part)])
    images = load_images(str(tmp_path))
    assert images.name == tmp_path.name
    assert images.class_names == tuple(CLASSES)
    assert Counter(images.split_N.tolist()) == {"train": 21, "val": 6, "test": 9}
    read = [images.source.read(index) for index in range(36)]
    assert read == rows(100, 9) + rows(0, 27)  # test-... before train-...
    assert images.ids_N[0] == "test-00000-of-00003/0000000"
    assert images.labels_N.tolist() == [0, 1, 2] * 12
    backwards = [images.source.read(index) for index in reversed(range(36))]
    assert backwards == read[::-1]


def test_a_single_file_with_images_is_no_manifest(tmp_path: Path) -> None:
    path = hugging_face(tmp_path / "pets.parquet", rows(0, 12), ["pug", "tabby"] * 6, names=None)
    images = load_images(str(path))
    assert images.class_names == ("pug", "tabby")
    assert images.name == "pets"
    glob = load_images(str(tmp_path / "*.parquet"))
    assert glob.digest == images.digest


def test_a_row_without_bytes_stays_in_the_set_as_unreadable(tmp_path: Path) -> None:
    images = load_images(str(hugging_face(tmp_path / "a.parquet", [b"x", None, b"z"], None)), labels=False)
    assert len(images) == 3
    with pytest.raises(OSError, match="no bytes"):
        images.source.read(1)
    assert images.source.read(2) == b"z"


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, -1], CLASSES, "should be positions in its 3 class names, got -1 to 1"),
        ([0, 1, 3], CLASSES, "got 0 to 3"),
        ([0, None, 1], CLASSES, "have no label"),
        ([0.5, 1.0, 2.0], None, "one integer or text a row, or a list of them, not double"),
        ([[0.5], [1.0], []], None, r"or a list of them, not list<.*double>"),
        ([[0], None, [1]], CLASSES, "have no label"),
        ([[0], [None], [1]], CLASSES, "some lists of 'label' .* hold a null"),
        ([[0], [1, 3], [1]], CLASSES, "got 0 to 3"),
        (None, None, r"no column 'label'; its other columns are none.*--label-column"),
    ],
)
def test_labels_that_cannot_be_used_are_explained(
    tmp_path: Path, labels: list[Any] | None, names: list[str] | None, message: str
) -> None:
    path = hugging_face(tmp_path / "a.parquet", rows(0, 3), labels, names=names)
    with pytest.raises(InputError, match=message):
        load_images(str(path))


def test_a_file_that_is_no_parquet_or_holds_no_images_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(InputError, match="as Parquet"):
        load_images(str(tmp_path / "a.parquet"))
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"no images in .*, only 1 parquet"):
        load_images(str(tmp_path))
    hugging_face(tmp_path / "b.parquet", rows(0, 9), [0, 1, 2] * 3)
    with pytest.raises(InputError, match="holds no images"):
        load_images(str(tmp_path / "?.parquet"))
    images = load_images(str(tmp_path))
    assert (len(images), images.provenance["left_out"]) == (9, {"parquet": 1})


def test_a_file_that_vanishes_or_is_replaced_stops_the_run(tmp_path: Path) -> None:
    path = hugging_face(tmp_path / "a.parquet", rows(0, 12), [0, 1, 2] * 4)
    images = load_images(str(path))
    hugging_face(path, rows(50, 12), [0, 1, 2] * 4)
    with pytest.raises(VanishedImageError):
        images.source.read(11)
    path.unlink()
    with pytest.raises(VanishedImageError, match="cannot be read now"):
        images.source.read(0)


def test_a_set_of_parquet_files_can_be_pickled_also_once_it_was_read(tmp_path: Path) -> None:
    images = load_images(str(hugging_face(tmp_path / "a.parquet", rows(0, 12), [0, 1, 2] * 4)))
    assert images.source.read(5) == b"image 5"
    copy = pickle.loads(pickle.dumps(images))
    assert [copy.source.read(index) for index in range(12)] == rows(0, 12)
    assert copy.digest == images.digest


def test_the_digest_is_of_contents_not_of_how_they_are_stored(tmp_path: Path) -> None:
    path = hugging_face(tmp_path / "a.parquet", rows(0, 12), [0, 1, 2] * 4)
    before = load_images(str(path)).digest
    table = parquet.read_table(path)
    parquet.write_table(table, path, row_group_size=12, compression="zstd")
    assert load_images(str(path)).digest == before
    np.testing.assert_equal(len(table), 12)


def test_files_that_number_the_same_names_otherwise_are_mapped_by_name(tmp_path: Path) -> None:
    hugging_face(tmp_path / "train-0.parquet", rows(0, 6), [0, 1, 2] * 2, names=["ant", "bee", "cat"])
    hugging_face(tmp_path / "train-1.parquet", rows(6, 6), [0, 1, 2] * 2, names=["cat", "ant", "bee"])
    hugging_face(tmp_path / "test-0.parquet", rows(12, 3), [1, 2, 0], names=["bee", "cat", "ant"])
    images = load_images(str(tmp_path))
    assert images.class_names == ("bee", "cat", "ant")  # the first file's, test-0
    named = dict(zip(images.ids_N.tolist(), [images.class_names[label] for label in images.labels_N], strict=True))
    assert [named[f"test-0/000000{n}"] for n in range(3)] == ["cat", "ant", "bee"]
    assert [named[f"train-0/000000{n}"] for n in range(3)] == ["ant", "bee", "cat"]
    assert [named[f"train-1/000000{n}"] for n in range(3)] == ["cat", "ant", "bee"]


def test_names_that_only_some_files_list_are_added_and_texts_are_mapped_too(tmp_path: Path) -> None:
    hugging_face(tmp_path / "a.parquet", rows(0, 6), [0, 1] * 3, names=["ant", "bee"])
    hugging_face(tmp_path / "b.parquet", rows(6, 6), [0, 1] * 3, names=["cat", "ant"])
    hugging_face(tmp_path / "c.parquet", rows(12, 6), ["dog", "bee"] * 3, names=None)
    images = load_images(str(tmp_path))
    assert images.class_names == ("ant", "bee", "cat", "dog")
    assert images.labels_N.tolist() == [0, 1] * 3 + [2, 0] * 3 + [3, 1] * 3


def test_bare_numbers_in_one_file_and_names_in_another_are_refused(tmp_path: Path) -> None:
    hugging_face(tmp_path / "a.parquet", rows(0, 6), [0, 1] * 3, names=["ant", "bee"])
    hugging_face(tmp_path / "b.parquet", rows(6, 6), [0, 1] * 3, names=None)
    with pytest.raises(InputError, match=r"bare numbers in .*b\.parquet' and names in .*a\.parquet'.*--no-labels"):
        load_images(str(tmp_path))


@pytest.mark.parametrize("labels", [[-1, -1, -1], [None, None, None]])
def test_a_test_split_without_labels_is_kept_unlabelled(tmp_path: Path, labels: list[Any]) -> None:
    hugging_face(tmp_path / "train.parquet", rows(0, 9), [0, 1, 2] * 3)
    hugging_face(tmp_path / "test.parquet", rows(9, 3), labels)
    images = load_images(str(tmp_path))
    assert Counter(images.split_N.tolist()) == {"train": 6, "val": 3, "test": 3}
    assert set(images.labels_N[images.split_N == "test"].tolist()) == {-1}


def test_a_column_of_encoded_files_is_a_column_of_images(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    jpeg = encode(Image.new("RGB", (4, 4)), "JPEG")
    content = [None, jpeg, jpeg + b"1", jpeg + b"2"]
    table = pa.table({"key": [b"0", b"1", b"2", b"3"], "jpg": pa.array(content, pa.binary())})
    parquet.write_table(table, tmp_path / "00000.parquet")
    images = load_images(str(tmp_path / "00000.parquet"), labels=False)
    assert [images.source.read(row) for row in range(1, 4)] == content[1:]
    with pytest.raises(OSError, match="no bytes"):
        images.source.read(0)


def test_a_column_of_bytes_that_are_no_images_is_no_path(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": [b"abc" * 4000], "label": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"column 'image' of .* holds bytes") as raised:
        load_images(str(tmp_path / "a.parquet"))
    assert len(str(raised.value)) < 300


LISTS = [[0, 2], [], [1], [2, 1, 0], [0], [2]]
MATRIX = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda feature: {"_type": "List", "feature": feature},  # datasets 4
        lambda feature: {"_type": "Sequence", "feature": feature, "length": -1},  # datasets 2 and 3
        lambda feature: [feature],  # datasets 1
    ],
)
def test_lists_of_class_labels_are_several_labels_with_the_names_of_the_schema(
    tmp_path: Path, wrapped: Callable[[Any], Any]
) -> None:
    images = load_images(str(hugging_face(tmp_path / "a.parquet", rows(0, 6), LISTS, wrapped=wrapped)))
    assert (images.class_names, images.metric) == (tuple(CLASSES), "map11")
    assert images.labels_N.tolist() == MATRIX
    assert Counter(images.split_N.tolist()) == {"train": 4, "val": 1, "test": 1}


def test_lists_of_names_and_of_bare_numbers_are_several_labels(tmp_path: Path) -> None:
    named = [[CLASSES[number] for number in cell] for cell in LISTS]
    images = load_images(str(hugging_face(tmp_path / "a.parquet", rows(0, 6), named, names=None)))
    assert (images.class_names, images.labels_N.tolist()) == (tuple(CLASSES), MATRIX)
    images = load_images(str(hugging_face(tmp_path / "b.parquet", rows(0, 6), LISTS, names=None)))
    assert (images.class_names, images.labels_N.tolist()) == (("0", "1", "2"), MATRIX)


def test_lists_of_zeros_and_ones_of_one_length_are_the_rows_of_a_matrix(tmp_path: Path) -> None:
    images = load_images(str(hugging_face(tmp_path / "a.parquet", rows(0, 6), MATRIX, names=None)))
    assert (images.class_names, images.labels_N.tolist()) == (("0", "1", "2"), MATRIX)


def test_texts_are_split_where_several_labels_are_asked_for(tmp_path: Path) -> None:
    texts = ["bee|ant", "ant", "bee", "bee | cow", "cow", "ant"]
    path = hugging_face(tmp_path / "a.parquet", rows(0, 6), texts, names=None)
    images = load_images(str(path), multi_label=True)
    assert images.class_names == ("ant", "bee", "cow")
    assert images.labels_N.tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0]]
    one_each = hugging_face(tmp_path / "b.parquet", rows(0, 6), [0, 1, 2] * 2)
    assert load_images(str(one_each), multi_label=True).labels_N.tolist() == np.eye(3)[[0, 1, 2] * 2].tolist()


def test_lists_of_labels_are_mapped_by_name_across_files(tmp_path: Path) -> None:
    hugging_face(tmp_path / "train.parquet", rows(0, 6), LISTS, names=["cow", "ant", "bee"], wrapped=lambda f: [f])
    hugging_face(
        tmp_path / "test.parquet", rows(6, 3), [[0, 1], [2], []], wrapped=lambda f: [f], names=["ant", "bee", "cow"]
    )
    images = load_images(str(tmp_path))
    shown = [{images.class_names[k] for k in np.flatnonzero(row)} for row in images.labels_N]
    assert shown[:3] == [{"ant", "bee"}, {"cow"}, set()]
    assert shown[3:] == [{["cow", "ant", "bee"][number] for number in cell} for cell in LISTS]


def test_lists_beside_single_labels_must_be_asked_for(tmp_path: Path) -> None:
    hugging_face(tmp_path / "a.parquet", rows(0, 6), LISTS, wrapped=lambda feature: [feature])
    hugging_face(tmp_path / "b.parquet", rows(6, 6), [0, 1] * 3)
    with pytest.raises(
        InputError, match=r"lists of labels in some files and one label a row in .*b\.parquet'.*--multi"
    ):
        load_images(str(tmp_path))
    assert load_images(str(tmp_path), multi_label=True).labels_N[6:].tolist() == [[1, 0, 0], [0, 1, 0]] * 3


@pytest.mark.parametrize("labels", [[None, None, None], [[], [], []]])
def test_a_split_without_any_of_several_labels_is_not_taken_for_images_of_no_class(
    tmp_path: Path, labels: list[Any]
) -> None:
    hugging_face(tmp_path / "train.parquet", rows(0, 6), LISTS, wrapped=lambda feature: [feature])
    hugging_face(tmp_path / "test.parquet", rows(6, 3), pa.array(labels, pa.list_(pa.int64())))
    with pytest.raises(InputError, match=r"no image of test shows any class.*--no-labels"):
        load_images(str(tmp_path))


def test_bare_numbers_without_labels_in_test_are_no_class(tmp_path: Path) -> None:
    hugging_face(tmp_path / "train.parquet", rows(0, 9), [0, 1, 2] * 3, names=None)
    hugging_face(tmp_path / "test.parquet", rows(9, 3), [-1, -1, -1], names=None)
    images = load_images(str(tmp_path))
    assert images.class_names == ("0", "1", "2")
    assert set(images.labels_N[images.split_N == "test"].tolist()) == {-1}
