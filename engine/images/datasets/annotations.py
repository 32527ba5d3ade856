"""Read the datasets that torchvision has no fitting class for: Birdsnap, SUN397, Oxford-IIIT Pets and VOC 2007.

torchvision's SUN397 knows no partitions, its OxfordIIITPet opens every image to tell its class, and its VOC classes
are for detection and segmentation.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.datasets.annotation_index import AnnotationIndex, lines_of
from penultimate.engine.images.image_set import SPLIT_DTYPE
from penultimate.store.errors import InputError
from penultimate.store.labels import ABSENT, PRESENT, UNCOUNTED

# Shapes: N samples, K classes.

_VOC_MARKS = {"1": PRESENT, "-1": ABSENT, "0": UNCOUNTED}
"""Mark in ``ImageSets/Main/<class>_<split>.txt`` -> label; 0 is a class shown by difficult objects alone."""


def read_birdsnap(base: Path) -> AnnotationIndex:
    """Read Birdsnap (Berg et al. 2014), version 1.1.

    Its tables ``species.txt``, ``images.txt`` and ``test_images.txt`` are tab-separated. Images are where
    ``get_birdsnap.py`` puts them, in ``download/images``, or in ``images``. Those that could not be downloaded any more
    stay in the list, and decoding records that they are missing.
    """
    species = {row["id"]: index for index, row in enumerate(_table(base / "species.txt", "id", "common"))}
    names = [row["common"] for row in _table(base / "species.txt", "id", "common")]
    test = {row["path"] for row in _table(base / "test_images.txt", "path")}
    folder = "download/images" if (base / "download" / "images").is_dir() else "images"
    images = _table(base / "images.txt", "path", "species_id")
    if unknown := {row["species_id"] for row in images} - set(species):
        raise InputError(f"images.txt in {str(base)!r} has species {sorted(unknown)[:3]} that species.txt lacks")
    rows = [
        (f"{folder}/{row['path']}", "test" if row["path"] in test else "train", species[row["species_id"]])
        for row in images
    ]
    return AnnotationIndex.of(base, rows, names)


def read_sun397(base: Path) -> AnnotationIndex:
    """Read SUN397 (Xiao et al. 2010): images below ``SUN397``, the first of the ten partitions beside it or in it."""
    images = base / "SUN397" if (base / "SUN397").is_dir() else base
    candidates = [base, images, base / "Partitions", images / "Partitions"]
    lists = next((folder for folder in candidates if (folder / "Training_01.txt").is_file()), None)
    if lists is None:
        raise InputError(
            f"no Training_01.txt in {', '.join(repr(str(path)) for path in candidates)}: unpack Partitions.zip there"
        )
    class_names = sorted(line.lstrip("/") for line in lines_of(lists / "ClassName.txt"))
    index_of = {name: index for index, name in enumerate(class_names)}
    rows = []
    for split, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        for line in lines_of(lists / file):
            path = line.lstrip("/")
            class_name = path.rpartition("/")[0]
            if class_name not in index_of:
                raise InputError(f"{file} in {str(lists)!r} names {line!r}, of no class of ClassName.txt")
            rows.append((path, split, index_of[class_name]))
    return AnnotationIndex.of(images, rows, class_names)


def read_pets(base: Path) -> AnnotationIndex:
    """Read Oxford-IIIT Pets (Parkhi et al. 2012).

    A line of ``annotations/trainval.txt`` and ``test.txt`` is a name, the class from 1 to 37, species and breed.
    """
    rows, name_of = [], {}
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        for line in lines_of(base / "annotations" / file):
            image, *numbers = line.split()
            if len(numbers) != 3 or not numbers[0].isdecimal():
                raise InputError(f"{file} in {str(base)!r} has {line!r}; expected a name and three numbers")
            label = int(numbers[0]) - 1
            name_of[label] = image.rpartition("_")[0]
            rows.append((f"images/{image}.jpg", split, label))
    if set(name_of) != set(range(len(name_of))):
        raise InputError(f"the classes in {str(base)!r} are not numbered 1 to {len(name_of)}: {sorted(name_of)}")
    return AnnotationIndex.of(base, rows, [name_of[label] for label in range(len(name_of))])


def read_voc2007(base: Path) -> AnnotationIndex:
    """Read VOC 2007 (Everingham et al. 2007) for classification.

    Annotations are in ``ImageSets/Main``, with both archives unpacked into one ``VOC2007``.
    """
    main = base / "ImageSets" / "Main"
    class_names = sorted(path.name.removesuffix("_train.txt") for path in main.glob("*_train.txt"))
    if not class_names:
        raise InputError(f"no <class>_train.txt in {str(main)!r}")
    split_of = {image: split for split in ("train", "val", "test") for image in lines_of(main / f"{split}.txt")}
    images = sorted(split_of)
    row_of = {image: row for row, image in enumerate(images)}
    labels_NK = np.full((len(images), len(class_names)), 255, np.uint8)
    for column, class_name in enumerate(class_names):
        for split in ("train", "val", "test"):
            _mark(labels_NK[:, column], main / f"{class_name}_{split}.txt", row_of)
    if (unmarked := np.argwhere(labels_NK == 255)).size:
        row, column = unmarked[0]
        raise InputError(f"{str(main)!r} does not say whether {images[row]} shows {class_names[column]}")
    return AnnotationIndex(
        root=base,
        ids=[f"JPEGImages/{image}.jpg" for image in images],
        labels_N=labels_NK,
        split_N=np.array([split_of[image] for image in images], SPLIT_DTYPE),
        class_names=class_names,
    )


def _mark(labels_N: NDArray[np.uint8], path: Path, row_of: dict[str, int]) -> None:
    for line in lines_of(path):
        image, *mark = line.split()
        if image not in row_of or len(mark) != 1 or mark[0] not in _VOC_MARKS:
            raise InputError(f"{str(path)!r} has {line!r}; expected an image of the lists and -1, 0 or 1")
        labels_N[row_of[image]] = _VOC_MARKS[mark[0]]


def _table(path: Path, *columns: str) -> list[dict[str, str]]:
    reader = csv.DictReader(lines_of(path), delimiter="\t")
    if not set(columns) <= set(reader.fieldnames or []):
        raise InputError(f"{str(path)!r} must have columns {', '.join(columns)}, it has {reader.fieldnames}")
    return list(reader)
