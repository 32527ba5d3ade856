import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from penultimate.engine.images.formats.folder import load_folder, root_name
from penultimate.engine.images.image_set import ImageSet
from penultimate.store.errors import InputError


def fill(root: Path, counts: dict[str, int], suffix: str = ".jpg") -> Path:
    """Write so many files into each folder, each with its own path as content (sources never decode)."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number:03d}{suffix}").write_bytes(f"{folder}/{number}".encode())
    return root


def sizes(images: ImageSet) -> dict[tuple[str, str], int]:
    """Return the number of images by (split, class)."""
    names = [images.class_names[label] for label in images.labels_N]
    return dict(Counter(zip(images.split_N.tolist(), names, strict=True)))


def test_class_folders_are_split_by_fraction_in_every_class(tmp_path: Path) -> None:
    images = load_folder(fill(tmp_path, {"cat": 10, "dog": 40}))
    assert images.class_names == ("cat", "dog")
    assert sizes(images) == {
        ("train", "cat"): 6,
        ("val", "cat"): 2,
        ("test", "cat"): 2,
        ("train", "dog"): 24,
        ("val", "dog"): 8,
        ("test", "dog"): 8,
    }
    assert images.ids_N.tolist() == sorted(images.ids_N.tolist())
    assert images.source.read(0) == b"cat/0"


def test_the_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 10, "dog": 40})
    first, again, other = (load_folder(tmp_path, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.split_N, again.split_N)
    assert (first.split_N != other.split_N).any()
    assert first.digest == again.digest != other.digest


def test_classes_of_one_size_are_drawn_independently(tmp_path: Path) -> None:
    images = load_folder(fill(tmp_path, {"cat": 40, "dog": 40}))
    cat_N, dog_N = (images.split_N[images.labels_N == label] for label in (0, 1))
    assert (cat_N != dog_N).any()


def test_a_new_class_leaves_the_split_of_the_others_as_it_was(tmp_path: Path) -> None:
    before = load_folder(fill(tmp_path, {"cat": 10, "dog": 40}))
    after = load_folder(fill(tmp_path, {"eel": 10}))
    split_after = dict(zip(after.ids_N, after.split_N, strict=True))
    assert [split_after[id_] for id_ in before.ids_N] == before.split_N.tolist()


def test_three_images_a_class_are_enough_and_two_are_not(tmp_path: Path) -> None:
    assert Counter(load_folder(fill(tmp_path, {"cat": 3, "dog": 9})).split_N.tolist())["val"] == 3
    fill(tmp_path, {"eel": 2})
    with pytest.raises(InputError, match=r"class 'eel' has 2 images to split, and needs at least 3: 1 for val"):
        load_folder(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="class 'dog' has 0 images"):
        load_folder(fill(tmp_path, {"cat": 5, "dog": 0}))


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_given_splits_are_kept(tmp_path: Path, val: str) -> None:
    fill(tmp_path, {f"{split}/{name}": 4 for split in ("train", val, "test") for name in ("cat", "dog")})
    images = load_folder(tmp_path)
    assert set(sizes(images).values()) == {4}
    assert images.ids_N[0] == f"{min('test', val)}/cat/000.jpg"


def test_val_is_held_out_of_train_when_it_is_not_given(tmp_path: Path) -> None:
    fill(tmp_path, {"train/cat": 10, "train/dog": 20, "test/cat": 7, "test/dog": 2})
    images = load_folder(tmp_path)
    assert sizes(images) == {
        ("train", "cat"): 8,
        ("val", "cat"): 2,
        ("test", "cat"): 7,
        ("train", "dog"): 16,
        ("val", "dog"): 4,
        ("test", "dog"): 2,
    }
    from_test = np.strings.startswith(images.ids_N, "test/")
    np.testing.assert_array_equal(images.split_N == "test", from_test)


def test_train_and_val_alone_leave_no_test(tmp_path: Path) -> None:
    images = load_folder(fill(tmp_path, {"train/cat": 1, "val/cat": 1, "train/dog": 2}))
    assert sizes(images) == {("train", "cat"): 1, ("val", "cat"): 1, ("train", "dog"): 2}


def test_files_count_by_suffix_at_any_depth_and_hidden_ones_do_not(tmp_path: Path) -> None:
    fill(tmp_path, {"cat/deep/er": 3, "cat/.thumbs": 3, ".git/x": 3})
    fill(tmp_path, {"cat": 2}, suffix=".JPeG")
    for name in ("notes.txt", ".hidden.jpg", "no_suffix"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    assert load_folder(tmp_path).ids_N.tolist() == [
        "cat/000.JPeG",
        "cat/001.JPeG",
        "cat/deep/er/000.jpg",
        "cat/deep/er/001.jpg",
        "cat/deep/er/002.jpg",
    ]


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    fill(tmp_path, {"real/many": 4, "set/cat": 1})
    (tmp_path / "set" / "cat" / "more").symlink_to(tmp_path / "real" / "many")
    (tmp_path / "real" / "many" / "back").symlink_to(tmp_path / "set" / "cat")
    assert len(load_folder(tmp_path / "set")) == 5


def test_unlabelled_images_are_taken_only_when_asked(tmp_path: Path) -> None:
    fill(tmp_path, {".": 4})
    with pytest.raises(InputError, match=r"images but no class folders.*labels=False"):
        load_folder(tmp_path)
    images = load_folder(tmp_path, labels=False)
    assert images.labels_N.tolist() == [-1] * 4
    assert set(images.split_N) == {"test"}
    assert images.class_names == ()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no images in"),
        ({"cat": 0}, "no images in"),
        ({"val/cat": 3, "test/cat": 3}, "has test, val but no train folder"),
        ({"train/cat": 3, "valid/cat": 3, "val/cat": 3}, "several folders for one split: train, val, valid"),
        ({"train/cat": 3, "test/cat": 3, "extra/cat": 3}, r"mixes split folders \(test, train\) with others \(extra\)"),
        ({"train/cat": 3, "test/cat": 3, "test/dog": 1}, "test has classes that train lacks.*: dog"),
        ({"train/cat": 3, "test/cat": 3, "test/dog": 1, "train/dog": 0}, "test has classes that train lacks.*: dog"),
        ({"train": 3}, r"train' has images but no class folders"),
    ],
)
def test_a_folder_that_cannot_be_used_is_explained(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_folder(fill(tmp_path, counts))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
@pytest.mark.parametrize("closed", [".", "cat", "cat/deep"])
def test_a_folder_that_may_not_be_listed_is_named_rather_than_left_out(tmp_path: Path, closed: str) -> None:
    fill(tmp_path, {"cat": 9, "cat/deep": 9, "dog": 9})
    (tmp_path / closed).chmod(0)
    try:
        with pytest.raises(InputError, match="cannot list the folder"):
            load_folder(tmp_path)
    finally:
        (tmp_path / closed).chmod(0o755)


def test_where_the_splits_came_from_is_kept(tmp_path: Path) -> None:
    drawn = load_folder(fill(tmp_path / "drawn", {"cat": 3}), seed=5).provenance
    given = load_folder(fill(tmp_path / "given", {"train/cat": 3, "test/cat": 1})).provenance
    assert (drawn["split_folders"], drawn["seed"]) == ([], 5)
    assert given["split_folders"] == ["test", "train"]


def test_a_folder_that_is_not_there_or_is_a_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        load_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="it is a file"):
        load_folder(tmp_path / "file")


def test_fractions_that_leave_nothing_for_train_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 10})
    for val_fraction, test_fraction in ((0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.2)):
        with pytest.raises(InputError, match="split fractions"):
            load_folder(tmp_path, val_fraction=val_fraction, test_fraction=test_fraction)


class TestDigest:
    """The digest changes with the content, the labels, the split and the ids, and with nothing else."""

    counts = {"cat": 5, "dog": 5}  # noqa: RUF012 (read only)

    def test_is_that_of_the_same_files_elsewhere(self, tmp_path: Path) -> None:
        here, there = (load_folder(fill(tmp_path / name, self.counts)) for name in ("here", "there"))
        assert here.digest == there.digest
        assert len(here.digest) == 16

    def test_changes_with_one_byte(self, tmp_path: Path) -> None:
        before = load_folder(fill(tmp_path, self.counts)).digest
        (tmp_path / "cat" / "002.jpg").write_bytes(b"cat/X")
        assert load_folder(tmp_path).digest != before

    def test_changes_with_a_class_name_a_file_name_and_a_label(self, tmp_path: Path) -> None:
        digests = {load_folder(fill(tmp_path, self.counts)).digest}
        (tmp_path / "dog").rename(tmp_path / "eel")
        digests.add(load_folder(tmp_path).digest)
        (tmp_path / "cat" / "004.jpg").rename(tmp_path / "cat" / "005.jpg")
        digests.add(load_folder(tmp_path).digest)
        (tmp_path / "cat" / "005.jpg").rename(tmp_path / "eel" / "005.jpg")
        digests.add(load_folder(tmp_path).digest)
        assert len(digests) == 4

    def test_an_unreadable_file_stays_in_the_set(self, tmp_path: Path) -> None:
        before = load_folder(fill(tmp_path, self.counts))
        assert before.digest
        (tmp_path / "cat" / "002.jpg").unlink()
        (tmp_path / "cat" / "002.jpg").symlink_to(tmp_path / "nowhere")
        after = load_folder(tmp_path)
        assert after.ids_N.tolist() == before.ids_N.tolist()
        assert after.digest != before.digest

    def test_is_frozen(self, tmp_path: Path) -> None:
        # SHA-256 of three lines, '["cat"]', '["train/cat/0.jpg",0,"train","1:<xxh3_128 of b"a">"]' and the like for
        # the other file, computed once outside this package. A change makes every stored feature another's.
        (tmp_path / "train" / "cat").mkdir(parents=True)
        (tmp_path / "train" / "cat" / "0.jpg").write_bytes(b"a")
        (tmp_path / "val" / "cat").mkdir(parents=True)
        (tmp_path / "val" / "cat" / "1.jpg").write_bytes(b"bc")
        assert load_folder(tmp_path).digest == "4324da5d28f79830"


def test_the_root_of_the_file_system_has_a_name_as_any_folder(tmp_path: Path) -> None:
    assert root_name(Path("/")) == "root"
    assert root_name(tmp_path / ".." / tmp_path.name) == tmp_path.name
