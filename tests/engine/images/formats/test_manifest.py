import json
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from penultimate.engine.images.formats.manifest import load_manifest
from penultimate.engine.images.load import load_images
from penultimate.store.errors import InputError


def table(folder: Path, columns: dict[str, list[object]], name: str = "set.csv") -> Path:
    """Write a manifest, and a file for each path in it."""
    frame = pd.DataFrame(columns)
    for path in columns.get("path", []):
        file = folder / str(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(str(path).encode())
    manifest = folder / name
    frame.to_csv(manifest, index=False) if name.endswith(".csv") else frame.to_parquet(manifest)
    return manifest


PATHS: list[object] = ["b/2.jpg", "a/1.jpg", "c/3.jpg", "a/4.jpg", "a/5.jpg", "b/6.jpg"]
LABELS: list[object] = ["dog", "cat", "dog", "cat", "cat", "dog"]


@pytest.mark.parametrize("name", ["set.csv", "set.parquet"])
def test_rows_are_sorted_by_id_and_keep_their_label_and_file(tmp_path: Path, name: str) -> None:
    images = load_manifest(table(tmp_path, {"path": PATHS, "label": LABELS}, name))
    assert images.ids_N.tolist() == ["a/1.jpg", "a/4.jpg", "a/5.jpg", "b/2.jpg", "b/6.jpg", "c/3.jpg"]
    assert [images.class_names[label] for label in images.labels_N] == ["cat"] * 3 + ["dog"] * 3
    assert [images.source.read(index) for index in range(6)] == [id_.encode() for id_ in images.ids_N.tolist()]
    assert Counter(images.split_N.tolist()) == {"train": 2, "val": 2, "test": 2}
    assert images.name == "set"


def test_ids_and_splits_are_taken_from_their_columns(tmp_path: Path) -> None:
    splits: list[object] = ["train", "Train", "test", "valid", "test", "validation"]
    ids: list[object] = ["f", "e", "d", "c", "b", "a"]
    images = load_manifest(table(tmp_path, {"path": PATHS, "label": LABELS, "split": splits, "id": ids}))
    assert images.ids_N.tolist() == list("abcdef")
    assert images.split_N.tolist() == ["val", "test", "val", "test", "train", "train"]
    assert images.source.read(0) == b"b/6.jpg"


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    manifest = table(tmp_path, {"path": PATHS, "kind": LABELS})
    renamed = pd.read_csv(manifest).rename(columns={"path": "filename"})
    renamed.to_csv(manifest, index=False)
    assert load_manifest(manifest, label_column="kind").class_names == ("cat", "dog")


def test_class_names_that_are_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    labels: list[object] = [10, 9, 10, 9, 9, 10]
    assert load_manifest(table(tmp_path, {"path": PATHS, "label": labels})).class_names == ("9", "10")


def test_a_class_called_NA_is_a_class(tmp_path: Path) -> None:
    labels: list[object] = ["NA", "cat", "NA", "cat", "cat", "NA"]
    assert load_manifest(table(tmp_path, {"path": PATHS, "label": labels})).class_names == ("NA", "cat")


@pytest.mark.parametrize("name", ["set.csv", "set.parquet"])
def test_several_labels_become_a_zero_one_matrix(tmp_path: Path, name: str) -> None:
    cells = [["dog", "cat"], ["cat"], [], ["eel"], ["cat", "eel"], ["dog"]]
    labels: list[object] = list(cells) if name.endswith("parquet") else ["|".join(cell) for cell in cells]
    images = load_manifest(table(tmp_path, {"path": PATHS, "label": labels}, name), multi_label=True)
    assert images.class_names == ("cat", "dog", "eel")
    assert images.labels_N.dtype == "uint8"
    assert images.labels_N.tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert images.metric == "map11"
    assert set(images.split_N.tolist()) == {"train", "val", "test"}


def test_a_missing_cell_is_no_label_and_not_a_class(tmp_path: Path) -> None:
    labels: list[object] = ["dog|cat", "cat", None, "dog", "cat", None]
    images = load_manifest(table(tmp_path, {"path": PATHS, "label": labels}, "set.parquet"), multi_label=True)
    assert images.class_names == ("cat", "dog")
    assert sorted(images.labels_N.sum(axis=1).tolist()) == [0, 0, 1, 1, 1, 2]
    with pytest.raises(InputError, match=r"row 3 of .* has nothing in column 'label'"):
        load_manifest(tmp_path / "set.parquet")


def test_a_column_of_lists_says_itself_that_there_are_several_labels(tmp_path: Path) -> None:
    labels: list[object] = [["dog", "cat"], ["cat"], [], ["eel"], ["cat", "eel"], ["dog"]]
    manifest = table(tmp_path, {"path": PATHS, "label": labels}, "set.parquet")
    images = load_manifest(manifest)
    assert images.metric == "map11"
    assert images.digest == load_manifest(manifest, multi_label=True).digest
    lines = [json.dumps({"path": path, "label": cell}) for path, cell in zip(PATHS, labels, strict=True)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    assert load_manifest(tmp_path / "set.jsonl").digest == images.digest
    (tmp_path / "set.jsonl").write_text("\n".join([*lines[:-1], json.dumps({"path": "b/6.jpg", "label": "dog|cat"})]))
    with pytest.raises(InputError, match="holds lists, and in row 6 none"):
        load_manifest(tmp_path / "set.jsonl")


def test_a_class_of_several_that_the_test_split_alone_shows_is_refused(tmp_path: Path) -> None:
    labels: list[object] = ["dog|cat", "cat", "dog", "eel", "cat", "dog"]
    splits: list[object] = ["train", "train", "train", "test", "test", "val"]
    with pytest.raises(InputError, match=r"test has classes that train lacks.*: eel"):
        load_manifest(table(tmp_path, {"path": PATHS, "label": labels, "split": splits}), multi_label=True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": PATHS, "labels": LABELS}, "no column 'label'; it has 'path', 'labels'; did you mean 'labels'?"),
        ({"path": PATHS, "species": LABELS}, "no column 'label'; it has 'path', 'species'; name another with --label-"),
        ({"label": LABELS}, "no column 'path'; it has 'label'"),
        ({"path": PATHS, "label": ["cat", "", *LABELS[2:]]}, "row 2 of .* has nothing in column 'label'"),
        ({"path": [*PATHS[:5], PATHS[1]], "label": LABELS}, r"names 'a/1.jpg' twice, in rows 2 and 6"),
        ({"path": PATHS, "label": LABELS, "split": ["fold"] * 6}, "column 'split' of .* has 'fold'; expected train"),
        ({"path": PATHS, "label": LABELS, "split": ["dev"] * 6}, "all labels are of val, and none of train"),
        ({"path": PATHS, "label": ["cat"] * 5 + ["dog"]}, "class 'dog' has 1 image to split"),
        ({"path": [], "label": []}, "has no rows"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_explained(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_manifest(table(tmp_path, columns))


def test_paths_that_lead_nowhere_are_explained(tmp_path: Path) -> None:
    manifest = table(tmp_path, {"path": PATHS, "label": LABELS})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(InputError, match=r"none of the 6 files .* exists; paths are relative to the manifest's folder"):
        load_manifest(manifest.rename(elsewhere / "set.csv"))


def test_what_is_no_table_is_said(tmp_path: Path) -> None:
    for name in ("set.parquet", "set.csv", "set.xlsx"):
        (tmp_path / name).write_bytes(b'"\x00\xff')
        with pytest.raises(InputError, match="manifest"):
            load_manifest(tmp_path / name)


def test_labels_are_not_needed_where_none_are_asked_for(tmp_path: Path) -> None:
    images = load_images(str(table(tmp_path, {"path": PATHS})), labels=False)
    assert images.labels_N.tolist() == [-1] * 6
    assert set(images.split_N.tolist()) == {"test"}
    (tmp_path / "list.txt").write_text("\n".join(map(str, PATHS)) + "\n\n")
    assert load_images(str(tmp_path / "list.txt"), labels=False).digest == images.digest
    with pytest.raises(InputError, match=r"list of paths without labels.*--no-labels"):
        load_images(str(tmp_path / "list.txt"))


def test_the_columns_of_path_and_label_may_be_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id_code": range(6), "where": PATHS, "species": LABELS})
    table(tmp_path, {"path": PATHS})
    frame.to_csv(tmp_path / "own.tsv", sep="\t", index=False)
    images = load_images(str(tmp_path / "own.tsv"), path_column="where", label_column="species")
    assert images.class_names == ("cat", "dog")
    with pytest.raises(
        InputError, match=r"no column 'path'; it has 'id_code', 'where', 'species'.*--set path_column=NAME"
    ):
        load_images(str(tmp_path / "own.tsv"))


def test_a_class_that_train_lacks_is_refused_as_in_folders(tmp_path: Path) -> None:
    splits: list[object] = ["train", "train", "train", "train", "test", "test"]
    labels: list[object] = ["cat", "dog", "cat", "dog", "cat", "eel"]
    with pytest.raises(InputError, match=r"test has classes that train lacks.*: eel"):
        load_manifest(table(tmp_path, {"path": PATHS, "label": labels, "split": splits}))


@pytest.mark.parametrize("text", ["path,label\na/1.jpg,cat,\na/4.jpg,dog,\n", "path,label\na,1.jpg,cat\n"])
def test_rows_longer_than_the_header_are_explained(tmp_path: Path, text: str) -> None:
    (tmp_path / "set.csv").write_text(text)
    with pytest.raises(InputError, match=r"more cells than its header has names, as with a comma at the end"):
        load_manifest(tmp_path / "set.csv")


def test_a_path_in_another_unicode_form_than_the_file_is_explained(tmp_path: Path) -> None:
    paths: list[object] = ["a.jpg", "cafe\u0301.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"]
    manifest = table(tmp_path, {"path": paths, "label": LABELS})
    text = unicodedata.normalize("NFC", manifest.read_text())
    manifest.write_text(text)
    with pytest.raises(InputError, match=r"caf\\xe9.*other Unicode characters that look the same \(NFD\)"):
        load_manifest(manifest)


class TestImageFolder:
    """Tests of Hugging Face's ``imagefolder``: ``metadata`` with a column ``file_name``, beside a split's images."""

    @pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
    def test_tables_of_the_splits_are_one_set(self, tmp_path: Path, name: str) -> None:
        for split, labels in (("train", ["cat", "dog"] * 5), ("test", ["dog", "cat"])):
            frame = pd.DataFrame({"file_name": [f"{n}.jpg" for n in range(len(labels))], "label": labels})
            self.write(tmp_path / split, frame, name)
        (tmp_path / "test" / "unnamed.jpg").write_bytes(b"")
        (tmp_path / "notes.txt").write_bytes(b"")
        images = load_images(str(tmp_path))
        assert images.class_names == ("cat", "dog")
        assert Counter(images.split_N.tolist()) == {"train": 8, "val": 2, "test": 2}
        assert images.ids_N[0] == "test/0.jpg"
        assert images.source.read(0) == b"0.jpg"
        assert images.provenance["left_out"] == {".txt": 1, "images that no table names": 1}

    def test_one_table_at_the_top_names_files_of_every_split(self, tmp_path: Path) -> None:
        names = [f"{split}/{n}.jpg" for split in ("train", "validation") for n in range(4)]
        self.write(tmp_path, pd.DataFrame({"file_name": names, "breed": ["pug", "tabby"] * 4}), "metadata.csv")
        images = load_images(str(tmp_path), label_column="breed")
        assert Counter(images.split_N.tolist()) == {"train": 4, "val": 4}
        with pytest.raises(InputError, match=r"has columns file_name, breed: name the label's \(--label-column\)"):
            load_images(str(tmp_path))

    def test_a_split_without_the_label_column_is_kept_unlabelled(self, tmp_path: Path) -> None:
        names = [f"{n}.jpg" for n in range(6)]
        self.write(tmp_path / "train", pd.DataFrame({"file_name": names, "label": ["a", "b"] * 3}), "metadata.csv")
        self.write(tmp_path / "test", pd.DataFrame({"file_name": names}), "metadata.csv")
        images = load_images(str(tmp_path))
        assert set(images.labels_N[images.split_N == "test"].tolist()) == {-1}
        assert len(images) == 12

    def write(self, folder: Path, frame: pd.DataFrame, name: str) -> None:
        for path in frame["file_name"]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(Path(path).name.encode())
        if name.endswith("csv"):
            frame.to_csv(folder / name, index=False)
        elif name.endswith("jsonl"):
            frame.to_json(folder / name, orient="records", lines=True)
        else:
            frame.to_parquet(folder / name)
