"""The paper's datasets are read from miniatures in the publishers' own layouts, for maintainers to compare by eye."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from penultimate.engine.images.datasets.paper12 import PAPER12, check_dataset, read_annotations
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.store.errors import InputError

Labelled = dict[str, tuple[str, str]]
"""Path of an image -> its given split and its class."""


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def food101(root: Path) -> Labelled:
    """Write food-101.tar.gz: ``images/<class>/<number>.jpg``, lists without suffix in ``meta/{train,test}.json``."""
    base = root / "food-101"
    labelled: Labelled = {}
    meta: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for class_name in ("apple_pie", "waffles"):
        for number in range(25):
            split = "train" if number < 20 else "test"
            meta[split].setdefault(class_name, []).append(f"{class_name}/{1000 + number}")
            labelled[f"images/{class_name}/{1000 + number}.jpg"] = (split, class_name)
    for split, lists in meta.items():
        write(base / "meta" / f"{split}.json", json.dumps(lists))
    touch(base, *labelled)
    return labelled


def aircraft(root: Path) -> Labelled:
    """Write fgvc-aircraft-2013b.tar.gz: ``data/images/<id>.jpg``; a variant's name may hold spaces."""
    data = root / "fgvc-aircraft-2013b" / "data"
    labelled: Labelled = {}
    write(data / "variants.txt", "707-320", "Boeing 717")
    for split in ("train", "val", "test"):
        lines = []
        for class_name in ("707-320", "Boeing 717", "707-320"):
            image = f"{len(labelled):07d}"
            lines.append(f"{image} {class_name}")
            labelled[f"data/images/{image}.jpg"] = (split, class_name)
        write(data / f"images_variant_{split}.txt", *lines)
    touch(data.parent, *labelled)
    return labelled


def cars(root: Path) -> Labelled:
    """Write cars_train.tgz, cars_test.tgz, car_devkit.tgz and the labelled test annotations; classes from 1."""
    labelled: Labelled = {}
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    (root / "devkit").mkdir()
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(names, dtype=object)})
    kind = np.dtype([(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")])
    for split, mat in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.array([(1, 1, 9, 9, 1 + number % 2, f"{number + 1:05d}.jpg") for number in range(10)], dtype=kind)
        savemat(root / mat, {"annotations": rows[None]})
        labelled |= {f"cars_{split}/{row['fname']}": (split, names[row["class"] - 1]) for row in rows}
    touch(root, *labelled)
    return labelled


def dtd(root: Path) -> Labelled:
    """Write dtd-r1.0.1.tar.gz: ``dtd/images/<class>/``, ten splits in ``dtd/labels``; the first is read."""
    base = root / "dtd"
    labelled: Labelled = {}
    for split in ("train", "val", "test"):
        paths = [f"{name}/{name}_{split}{number}.jpg" for name in ("banded", "zigzagged") for number in range(2)]
        write(base / "labels" / f"{split}1.txt", *paths)
        write(base / "labels" / f"{split}2.txt", *reversed(paths))
        labelled |= {f"images/{path}": (split, path.partition("/")[0]) for path in paths}
    touch(base, *labelled)
    return labelled


def pets(root: Path) -> Labelled:
    """Write images.tar.gz and annotations.tar.gz side by side; ``name class species breed``, classes from 1."""
    labelled: Labelled = {}
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        lines = []
        for label, class_name in enumerate(("Abyssinian", "american_bulldog"), start=1):
            for number in range(20):
                image = f"{class_name}_{number if split == 'train' else 100 + number}"
                lines.append(f"{image} {label} {label} 1")
                labelled[f"images/{image}.jpg"] = (split, class_name)
        write(root / "annotations" / file, *lines)
    touch(root, *labelled)
    return labelled


def flowers(root: Path) -> Labelled:
    """Write 102flowers.tgz (``jpg/``), imagelabels.mat and setid.mat; labels and image numbers from 1."""
    labels = np.array([1, 2, 1, 2, 2, 1, 102])
    savemat(root / "imagelabels.mat", {"labels": labels[None]})
    sets = {"trnid": [2, 1], "valid": [4, 3], "tstid": [5, 6, 7]}
    savemat(root / "setid.mat", {name: np.array(ids)[None] for name, ids in sets.items()})
    names = {1: "pink primrose", 2: "hard-leaved pocket orchid", 102: "blackberry lily"}
    ours = {"trnid": "train", "valid": "val", "tstid": "test"}
    labelled = {f"jpg/image_{id_:05d}.jpg": (ours[s], names[labels[id_ - 1]]) for s, ids in sets.items() for id_ in ids}
    touch(root, *labelled)
    return labelled


def birdsnap(root: Path) -> Labelled:
    """Write version 1.1's four tables with headers, and images where ``get_birdsnap.py`` puts them."""
    labelled: Labelled = {}
    write(
        root / "species.txt", "id\tcommon\tscientific\tdir", "1\tAcadian Flycatcher\tE. v.\tAF", "2\tOvenbird\tS. a.\tO"
    )
    images, test = ["url\tmd5\tpath\tspecies_id\tbb_x1"], ["path"]
    for number in range(40):
        folder, class_name = ("AF", "Acadian Flycatcher") if number % 2 else ("O", "Ovenbird")
        path = f"{folder}/{number}.jpg"
        images.append(f"http://x/{number}\t0\t{path}\t{2 - number % 2}\t3")
        split = "test" if number >= 36 else "train"
        test += [path] if split == "test" else []
        labelled[f"download/images/{path}"] = (split, class_name)
    write(root / "images.txt", *images)
    write(root / "test_images.txt", *test)
    touch(root, *labelled)
    return labelled


def sun397(root: Path) -> Labelled:
    """Write SUN397.tar.gz and Partitions.zip; a class may lie two folders deep."""
    labelled: Labelled = {}
    names = ["a/abbey", "a/apartment_building/outdoor"]
    write(root / "Partitions" / "ClassName.txt", *[f"/{name}" for name in names])
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        paths = [f"{name}/sun_{split}{number}.jpg" for name in names for number in range(10)]
        write(root / "Partitions" / file, *[f"/{path}" for path in paths])
        labelled |= {path: (split, path.rpartition("/")[0]) for path in paths}
    touch(root / "SUN397", *labelled, "a/abbey/sun_in_no_partition.jpg")
    return labelled


def cifar100(root: Path) -> None:
    """Write cifar-100-python.tar.gz: one pickle a split, fine and coarse labels."""
    base = root / "cifar-100-python"
    base.mkdir()
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "ray"], "coarse_label_names": ["x"]}))
    for split, count in (("train", 40), ("test", 4)):
        fine = [number % 2 for number in range(count)]
        batch = {"data": np.zeros((count, 3072), np.uint8), "fine_labels": fine, "coarse_labels": [0] * count}
        (base / split).write_bytes(pickle.dumps(batch))


LISTED: dict[str, Callable[[Path], Labelled]] = {
    "food101": food101,
    "aircraft": aircraft,
    "cars": cars,
    "dtd": dtd,
    "pets": pets,
    "flowers": flowers,
    "birdsnap": birdsnap,
    "sun397": sun397,
}


@pytest.fixture(autouse=True)
def _sums_of_the_miniature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision accept a miniature of Flowers, although it checks the MD5 sums of the .mat files."""
    from torchvision.datasets import Flowers102

    files = {kind: (name, None) for kind, (name, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", files)


def contents(images: ImageSet) -> dict[str, tuple[str, str]]:
    labels = images.labels_N.tolist()
    rows = zip(images.ids_N, images.split_N, labels, strict=True)
    return {str(id_): (str(split), images.class_names[label]) for id_, split, label in rows}


@pytest.mark.parametrize("name", LISTED)
def test_images_classes_and_splits_are_those_of_the_publishers_lists(name: str, tmp_path: Path) -> None:
    expected = LISTED[name](tmp_path)
    images = load_images(name, root=tmp_path)
    undone = {
        id_: ("train" if s == "val" and not PAPER12[name].val_given else s, c)
        for id_, (s, c) in contents(images).items()
    }
    assert undone == expected
    assert images.metric == PAPER12[name].metric
    assert images.source.read(0) == str(images.ids_N[0]).encode()


@pytest.mark.parametrize("name", [name for name in LISTED if not PAPER12[name].val_given])
def test_val_is_the_papers_fraction_of_train_drawn_from_every_class_by_the_seed(name: str, tmp_path: Path) -> None:
    LISTED[name](tmp_path)
    images, again, other = (load_images(name, root=tmp_path, seed=seed) for seed in (0, 0, 1))
    dataset = PAPER12[name]
    sizes = Counter(images.split_N.tolist())
    fraction = dataset.val / (dataset.train + dataset.val)
    assert sizes["val"] == round(fraction * (sizes["val"] + sizes["train"]))
    per_class = Counter(images.labels_N[images.split_N == "val"].tolist())
    assert max(per_class.values()) - min(per_class.values()) <= 1
    assert again.digest == images.digest != other.digest


@pytest.mark.parametrize("name", ["food101", "aircraft", "dtd", "birdsnap"])
def test_the_root_may_also_be_the_datasets_own_folder(name: str, tmp_path: Path) -> None:
    LISTED[name](tmp_path)
    own = {"food101": "food-101", "aircraft": "fgvc-aircraft-2013b", "dtd": "dtd", "birdsnap": "."}[name]
    assert load_images(name, root=tmp_path / own).digest == load_images(name, root=tmp_path).digest


def test_cifar100_has_fine_labels_and_5067_of_50000_in_val(tmp_path: Path) -> None:
    cifar100(tmp_path)
    images = load_images("cifar100", root=tmp_path)
    assert images.class_names == ("apple", "ray")
    assert Counter(images.split_N.tolist()) == {"train": 36, "val": 4, "test": 4}
    assert PAPER12["cifar100"].val == round(50_000 * 5_067 / 50_000)


def voc2007(root: Path) -> Path:
    """Write VOC 2007, unpacked into one folder: -1 absent, 1 present, 0 present in difficult objects alone."""
    main = root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    marks = {"train": {"000005": (1, -1), "000007": (0, 1)}, "val": {"000009": (-1, 1)}, "test": {"000001": (1, 0)}}
    for split, images in marks.items():
        write(main / f"{split}.txt", *images)
        for column, class_name in enumerate(("aeroplane", "tvmonitor")):
            write(main / f"{class_name}_{split}.txt", *[f"{image} {mark[column]:2d}" for image, mark in images.items()])
        touch(main.parents[1], *[f"JPEGImages/{image}.jpg" for image in images])
    write(main / "trainval.txt", "000005", "000007", "000009")
    return main


def test_voc2007_marks_what_only_difficult_objects_show_as_not_counted(tmp_path: Path) -> None:
    voc2007(tmp_path)
    images = load_images("voc2007", root=tmp_path)
    assert images.ids_N.tolist() == [f"JPEGImages/{number}.jpg" for number in ("000001", "000005", "000007", "000009")]
    assert images.split_N.tolist() == ["test", "train", "train", "val"]
    assert images.labels_N.tolist() == [[1, 2], [1, 0], [2, 1], [0, 1]]
    assert images.labels_N.dtype == np.uint8
    assert (images.metric, images.class_names) == ("map11", ("aeroplane", "tvmonitor"))


def test_voc2007_lists_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    main = voc2007(tmp_path)
    write(main / "aeroplane_train.txt", "000005  1")
    with pytest.raises(InputError, match="does not say whether 000007 shows aeroplane"):
        load_images("voc2007", root=tmp_path)
    write(main / "aeroplane_train.txt", "000005  1", "000007  7")
    with pytest.raises(InputError, match="expected an image of the lists and -1, 0 or 1"):
        load_images("voc2007", root=tmp_path)


def test_checking_counts_what_is_there_and_names_what_is_missing(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "images" / "Abyssinian_100.jpg").unlink()
    check = check_dataset("pets", tmp_path)
    assert check.missing == ("images/Abyssinian_100.jpg",)
    assert check.found == {"train": 32, "val": 8, "test": 39, "classes": 2}
    assert check.expected == {"train": 2940, "val": 740, "test": 3669, "classes": 37}
    assert check.per_class["Abyssinian"] == {"train": 16, "val": 4, "test": 19}
    assert not check.complete


@pytest.mark.slow
def test_the_real_caltech101_is_as_published(real_data: Path) -> None:
    check = check_dataset("caltech101", real_data / "caltech101")
    assert check.complete
    assert check.per_class["BACKGROUND_Google"] == {"train": 25, "val": 5, "test": 437}


@pytest.mark.parametrize("name", PAPER12)
def test_an_empty_folder_is_answered_with_what_is_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected|has 102 classes") as raised:
        load_images(name, root=tmp_path)
    assert "\n" not in str(raised.value)


def test_lists_without_images_and_lists_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    labelled = food101(tmp_path)
    (tmp_path / "food-101" / "meta" / "test.json").write_text("{")
    with pytest.raises(InputError, match="torchvision's Food101 cannot read"):
        read_annotations("food101", tmp_path)
    food101(tmp_path)
    for path in labelled:
        (tmp_path / "food-101" / path).unlink()
    with pytest.raises(InputError, match="none of its 50 images is there"):
        read_annotations("food101", tmp_path)


def test_the_table_is_the_papers(tmp_path: Path) -> None:
    """Compare with table 1 (train + val, test), in which 3,369 test images of Pets are a misprint of 3,669."""
    printed: dict[str, tuple[int, int]] = {
        "food101": (75_750, 25_250),
        "cifar10": (50_000, 10_000),
        "cifar100": (50_000, 10_000),
        "birdsnap": (47_386, 2_443),
        "sun397": (19_850, 19_850),
        "cars": (8_144, 8_041),
        "aircraft": (6_667, 3_333),
        "voc2007": (5_011, 4_952),
        "dtd": (3_760, 1_880),
        "pets": (3_680, 3_669),
        "caltech101": (3_060, 6_084),
        "flowers": (2_040, 6_149),
    }
    assert {name: (d.train + d.val, d.test) for name, d in PAPER12.items()} == printed
    by_metric: dict[str, Any] = {}
    for name, dataset in PAPER12.items():
        by_metric.setdefault(dataset.metric, set()).add(name)
    assert by_metric["mean_per_class"] == {"aircraft", "pets", "caltech101", "flowers"}
    assert by_metric["map11"] == {"voc2007"}
