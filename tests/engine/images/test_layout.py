"""Folders are interpreted by the rules of ``layout``; they are given as lists of paths, without any file."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from penultimate.engine.images.folders.file_kinds import kind_of_name
from penultimate.engine.images.folders.folder_index import FolderIndex
from penultimate.engine.images.layout import Interpretation, interpret
from penultimate.store.errors import InputError


def index_of(
    *paths: str, kinds: dict[str, str] | None = None, columns: dict[str, list[str]] | None = None
) -> FolderIndex:
    """Index these files, and folders where a path ends in ``/``; ``kinds`` has those that a name does not tell."""
    files = [path for path in paths if not path.endswith("/")]
    folders = {path.rstrip("/") for path in paths if path.endswith("/")}
    for path in (*files, *folders):
        parts = path.split("/")[:-1]
        folders |= {"/".join(parts[: depth + 1]) for depth in range(len(parts))}
    named = kinds or {}
    listed = [(path, named.get(path) or kind_of_name(path.rpartition("/")[2]) or "without suffix") for path in files]
    return FolderIndex(folders=sorted(folders), files=sorted(listed), columns=columns or {})


def many(folder: str, count: int, suffix: str = ".jpg") -> list[str]:
    return [f"{folder}/{number}{suffix}" for number in range(count)]


def meaning(*paths: str | Iterable[str], kinds: dict[str, str] | None = None, **options: Any) -> Interpretation:
    flat = [path for each in paths for path in ([each] if isinstance(each, str) else each)]
    found = interpret(index_of(*flat, kinds=kinds), name="set", **options)
    every = [path for path in flat if not path.endswith("/")]
    assert len(found.files) + sum(found.left_out.values()) == len(every), "every file is read or counted"
    return found


def roles(found: Interpretation) -> Counter[tuple[str, str]]:
    """Return the number of images by (split or empty, class or empty)."""
    names = [*found.class_names, ""]  # -1 is the last
    return Counter((split, names[label]) for split, label in zip(found.splits, found.labels, strict=True))


class TestSplitFolders:
    def test_the_intel_download_has_its_six_classes_and_its_images_to_predict(self) -> None:
        found = meaning(
            *(many(f"seg_{split}/seg_{split}/{name}", 2) for split in ("train", "test") for name in ("forest", "sea")),
            many("seg_pred/seg_pred", 3),
        )
        assert found.class_names == ["forest", "sea"]
        assert roles(found) == {
            ("train", "forest"): 2,
            ("train", "sea"): 2,
            ("test", "forest"): 2,
            ("test", "sea"): 2,
            ("", ""): 3,
        }
        assert "seg_train/ is train" in found.sentence

    @pytest.mark.parametrize(
        ("train", "test"),
        [
            ("Training", "Testing"),
            ("TRAIN", "Eval"),
            ("train2017", "test2017"),
            ("images_train", "images_test"),
            ("ILSVRC2012_img_train", "ILSVRC2012_img_test"),
            ("trainset", "testset"),
            ("TrainingSet", "TestSet"),
            ("01-train", "02-evaluation"),
        ],
    )
    def test_split_words_are_known_in_any_case_with_what_people_put_round_them(self, train: str, test: str) -> None:
        found = meaning(*(many(f"{split}/{name}", 1) for split in (train, test) for name in ("a", "b")))
        assert found.class_names == ["a", "b"]
        assert found.split_folders == {train: "train", test: "test"}

    def test_dev_is_val(self) -> None:
        assert meaning(many("train/a", 1), many("dev/a", 1)).split_folders == {"train": "train", "dev": "val"}

    def test_classes_that_are_called_as_splits_are_classes_beside_others(self) -> None:
        found = meaning(many("bus", 2), many("car", 2), many("train", 2))
        assert found.class_names == ["bus", "car", "train"]
        assert meaning(many("bullet_train", 2), many("freight_train", 2)).class_names == [
            "bullet_train",
            "freight_train",
        ]
        assert meaning(many("test_tube/1", 2), many("beaker/1", 2)).class_names == ["beaker", "test_tube"]

    def test_the_first_level_is_classes_if_that_is_asked(self) -> None:
        found = meaning(many("train/a", 2), many("test/a", 2), splits=False)
        assert found.class_names == ["test", "train"]

    @pytest.mark.parametrize(
        ("paths", "message"),
        [
            (
                [*many("train/a", 1), *many("test/a", 1), *many("extra/a", 1)],
                r"mixes split folders .*--set splits=false",
            ),
            (
                [*many("train/a", 1), *many("val/a", 1), *many("valid/a", 1)],
                r"several folders for one split.*--set splits=false",
            ),
            ([*many("val/a", 1), *many("test/a", 1)], r"no train folder.*--set splits=false"),
            ([*many("train/a", 1), *many("test/b", 1)], "test has classes that train lacks.*: b"),
            ([*many("train", 1), *many("test", 1)], "set/train' has images but no class folders.*--no-labels"),
            ([*many("train/train", 1), *many("test/test", 1)], "train' has images but no class folders"),
            ([*many("train/images", 2), *many("train/labels", 2, ".txt")], "train' has images but no class folders"),
        ],
    )
    def test_what_leaves_a_choice_names_the_choices(self, paths: list[str], message: str) -> None:
        with pytest.raises(InputError, match=message):
            meaning(paths)

    def test_classes_that_look_alike_are_told_apart(self) -> None:
        with pytest.raises(InputError, match=r"cafe\\u0301.*look alike.*other Unicode"):
            meaning(many("train/caf\u00e9", 1), many("test/cafe\u0301", 1))


class TestUnlabelledImages:
    def test_a_flat_test_folder_is_kept_beside_train_with_classes(self) -> None:
        found = meaning(many("train/a", 9), many("train/b", 9), many("test", 6), many("valid/a", 3), many("valid/b", 3))
        assert roles(found)["test", ""] == 6
        assert len(found.files) == 30
        assert "no class folders in test" in found.sentence

    def test_loose_images_are_kept_in_the_split_they_lie_in(self) -> None:
        found = meaning(many("train/a", 2), many("train/b", 2), ["train/loose.png", "over.png"])
        assert roles(found) == {("train", "a"): 2, ("train", "b"): 2, ("train", ""): 1, ("", ""): 1}

    def test_without_labels_every_image_is_taken_at_any_depth(self) -> None:
        found = meaning(many("train/a", 2), many("x/y/z", 2), ["top.webp", "notes.txt"], labels=False)
        assert set(found.labels) == {-1}
        assert (len(found.files), found.left_out) == (5, {".txt": 1})


class TestWrappers:
    @pytest.mark.parametrize("wrapper", ["data", "archive/photos", "my_dataset/raw/images"])
    def test_classes_in_a_wrapper_are_found(self, wrapper: str) -> None:
        found = meaning(many(f"{wrapper}/cat", 3), many(f"{wrapper}/dog", 3), ["README.md"])
        assert found.class_names == ["cat", "dog"]
        assert f"in {wrapper}/" in found.sentence

    @pytest.mark.parametrize("wrapper", ["data", "set/split", "test_data"])
    def test_splits_in_a_wrapper_are_found(self, wrapper: str) -> None:
        found = meaning(*(many(f"{wrapper}/{split}/{name}", 2) for split in ("train", "val") for name in "ab"))
        assert set(found.split_folders.values()) == {"train", "val"}
        assert found.class_names == ["a", "b"]

    def test_one_class_is_a_class_and_a_folder_of_images_is_none(self) -> None:
        assert meaning(many("cat", 3)).class_names == ["cat"]
        with pytest.raises(InputError, match="has images but no class folders"):
            meaning(many("images", 3), many("annotations", 3, ".xml"))

    def test_a_folder_without_images_is_no_class_and_an_empty_one_is(self) -> None:
        assert meaning(many("cat", 3), many("dog", 3), many("annotations", 2, ".xml")).class_names == ["cat", "dog"]
        assert meaning(many("cat", 3), ["dog/"]).class_names == ["cat", "dog"]

    def test_a_class_whose_images_cannot_be_read_here_does_not_go_away(self) -> None:
        found = meaning(many("cat", 3), many("dog", 3, ".nef"))
        assert found.class_names == ["cat", "dog"]
        assert found.left_out == {".nef": 3}


class TestReader:
    img2dataset = [  # noqa: RUF012 (read only)
        *(f"{number:05d}.{kind}" for number in range(5) for kind in ("tar", "parquet")),
        *(f"{number:05d}_stats.json" for number in range(5)),
    ]

    def test_an_img2dataset_download_is_its_tars(self) -> None:
        found = meaning(self.img2dataset)
        assert (found.reader, len(found.files)) == ("tars", 5)
        assert found.left_out == {".json": 5, "parquet": 5}

    @pytest.mark.parametrize("above", ["", "laion/", "train/"])
    def test_the_numbered_folders_of_an_img2dataset_download_are_no_classes(self, above: str) -> None:
        samples = [f"{above}{shard:05d}/{shard:05d}{n:04d}" for shard in range(3) for n in range(4)]
        beside = [f"{above}{shard:05d}{ending}" for shard in range(3) for ending in (".parquet", "_stats.json")]
        found = meaning([f"{sample}.{kind}" for sample in samples for kind in ("jpg", "txt", "json")], beside)
        assert (found.reader, found.class_names, set(found.labels)) == ("images", (), {-1})
        assert found.files == [f"{sample}.jpg" for sample in samples]
        assert found.left_out == {".json": 15, ".txt": 12, "parquet": 3}
        assert "img2dataset" in found.sentence
        assert "captions are no labels" in found.sentence

    def test_an_img2dataset_download_that_was_stopped_is_still_one(self) -> None:
        paths = ["00000/000000000.jpg", "00000/000000000.json", "00000/000000001.jpg", "00000/000000002.txt", "00001/"]
        assert meaning(paths).class_names == ()

    def test_img2dataset_downloads_of_splits_keep_their_splits(self) -> None:
        shards = [
            f"{split}/00000/00000000{n}.{kind}" for split in ("train", "val") for n in "01" for kind in ("jpg", "json")
        ]
        assert roles(meaning(shards)) == {("train", ""): 2, ("val", ""): 2}
        with pytest.raises(InputError, match=r"shards in train and classes such as 'cat' in val.*--no-labels"):
            meaning([path for path in shards if path.startswith("train")], many("val/cat", 2))

    @pytest.mark.parametrize(
        "paths",
        [
            [f"{name}/{name}_{n:05d}.ppm" for name in ("00000", "00001") for n in range(3)],  # GTSRB
            [f"{name}/{name}{n}.{kind}" for name in ("00", "01") for n in range(3) for kind in ("jpg", "json")],
            [f"{name}/{name}000{n}.jpg" for name in ("00000", "00001") for n in range(3)],
            [f"{name}/{n:09d}.{kind}" for name in ("00010", "00011") for n in range(3) for kind in ("jpg", "json")],
            [*(f"00000/00000000{n}.{kind}" for n in range(3) for kind in ("jpg", "json")), "cat/1.jpg"],
        ],
    )
    def test_other_folders_that_are_called_by_numbers_are_classes(self, paths: list[str]) -> None:
        assert len(meaning(paths).class_names) == 2

    def test_clip_benchmark_exports_have_their_class_names(self) -> None:
        found = meaning(
            ["train/0.tar", "train/1.tar", "test/0.tar", "train/nshards.txt", "test/nshards.txt", "classnames.txt"],
            ["zeroshot_classification_templates.txt"],
        )
        assert found.files == ["test/0.tar", "train/0.tar", "train/1.tar"]
        assert found.names_file == "classnames.txt"

    @pytest.mark.parametrize("leftover", ["download.tar", "train.parquet", "train/all.tar"])
    def test_the_archive_that_images_came_from_is_left_out(self, leftover: str) -> None:
        kinds = {leftover: "parquet images"} if leftover.endswith("parquet") else {}
        found = meaning(many("train/a", 2), many("test/a", 2), [leftover], kinds=kinds)
        assert found.reader == "images"
        assert sum(found.left_out.values()) == 1

    @pytest.mark.parametrize(
        "paths", [["a.tar", "b.tar", "preview.png"], [*many("tars", 3, ".tar"), *many("photos/cat", 3)]]
    )
    def test_images_and_tars_that_are_both_content_are_an_error_with_the_option(self, paths: list[str]) -> None:
        with pytest.raises(InputError, match=r"several things to read.*--set reader=images or --set reader=tars"):
            meaning(paths)
        assert meaning(paths, reader="tars").reader == "tars"

    def test_a_table_of_images_is_read_if_it_has_the_label(self) -> None:
        paths = [*many("train", 3), "train/metadata.csv"]
        columns = {"train/metadata.csv": ["file_name", "label"]}
        found = interpret(index_of(*paths, columns=columns), name="set")
        assert (found.reader, found.files) == ("table", ["train/metadata.csv"])
        with pytest.raises(InputError, match=r"metadata\.csv beside them has columns file_name, text.*--label-column"):
            interpret(index_of(*paths, columns={"train/metadata.csv": ["file_name", "text"]}), name="set")
        named = interpret(
            index_of(*paths, columns={"train/metadata.csv": ["file_name", "text"]}), name="s", label_column="text"
        )
        assert named.reader == "table"

    def test_captions_beside_class_folders_leave_the_classes_as_they_are(self) -> None:
        paths = [*many("cat", 3), *many("dog", 3), "metadata.jsonl"]
        found = interpret(index_of(*paths, columns={"metadata.jsonl": ["file_name", "caption"]}), name="set")
        assert (found.reader, found.class_names, found.left_out) == ("images", ["cat", "dog"], {".jsonl": 1})

    @pytest.mark.parametrize(
        ("paths", "message"),
        [
            ([], "no images in 'set'; expected"),
            (["a.txt", "b.txt", "c.pdf"], r"no images in 'set', only 2 \.txt, 1 \.pdf"),
            (["x-0.tar.gz", "x-1.tgz"], r"2 compressed tars such as x-0\.tar\.gz.*gunzip"),
            ([*many(".", 3), "labels.csv"], "if labels.csv says what they show, name that file"),
        ],
    )
    def test_what_cannot_be_read_says_what_is_there(self, paths: list[str], message: str) -> None:
        with pytest.raises(InputError, match=message):
            meaning([path.removeprefix("./") for path in paths])

    def test_a_reader_without_its_files_says_what_is_there(self) -> None:
        with pytest.raises(InputError, match=r"nothing for --set reader=tars; there is 2 image"):
            meaning(many("cat", 2), reader="tars")
