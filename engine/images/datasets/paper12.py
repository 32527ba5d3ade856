"""Load the twelve datasets of Kornblith et al. 2019 (table 1) by name, with the paper's splits and metrics.

Totals and metrics are the paper's. Where a dataset gives no validation set, its size is that of BYOL's appendix D,
which follows the paper; the images are drawn by a seed, from every class in proportion. The paper's table prints
3,369 test images of Pets; the dataset has 3,669.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.datasets.annotation_index import AnnotationIndex
from penultimate.engine.images.datasets.annotations import read_birdsnap, read_pets, read_sun397, read_voc2007
from penultimate.engine.images.datasets.caltech101 import load_caltech101
from penultimate.engine.images.datasets.cifar import load_cifar10, load_cifar100
from penultimate.engine.images.datasets.downloads import Download, fetch
from penultimate.engine.images.datasets.torchvision_datasets import AIRCRAFT, CARS, DTD, FLOWERS, FOOD101
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.sources import DigestingSource, FileSource
from penultimate.engine.images.splits import hold_out
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError

# Shapes: N samples, K classes.


class Loader(Protocol):
    """A function that loads a dataset whose images are not files named by lists."""

    def __call__(self, root: Path, *, seed: int, cache: DigestCache | None) -> ImageSet:
        """Load the dataset at ``root``; ``seed`` draws the splits that are not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A dataset whose files are images named by lists."""

    read: Callable[[Path], AnnotationIndex]

    folders: tuple[str, ...]
    """Folders below ``--root`` that may hold the dataset; the first with ``marker`` does. ``.`` is the root."""

    marker: str
    """Path of a file or folder by which the dataset is recognised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperDataset:
    """One dataset of the paper."""

    title: str
    num_classes: int
    train: int
    val: int
    test: int
    metric: str
    val_given: bool

    source: Published | Loader
    """Reader of the lists that name its images; a function where its images are not files named by lists."""

    where: str
    """Address of the publisher's page."""

    layout: str
    """Layout that the folder must have, in a line."""

    downloads: tuple[Download, ...] = ()
    """Files that ``download_dataset`` fetches: the publisher's that torchvision knows, with its MD5 sums."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of images in each split."""
        return {"train": self.train, "val": self.val, "test": self.test}


def load_paper_dataset(name: str, root: Path, *, seed: int = 0, cache: DigestCache | None = None) -> ImageSet:
    """Load the dataset ``name`` below ``root``; ``seed`` draws the validation images where none are given.

    Raises UnknownNameError for an unknown name, and InputError, with where to get the dataset and how the folder must
    look, where it cannot be read.
    """
    dataset = dataset_named(name)
    if not isinstance(dataset.source, Published):
        return dataset.source(root, seed=seed, cache=cache)
    annotations = read_annotations(name, root)
    split_N = annotations.split_N
    if not dataset.val_given:
        fraction = dataset.val / (dataset.train + dataset.val)
        total = round(fraction * int((split_N == "train").sum()))
        split_N = hold_out(split_N, annotations.labels_N.astype(np.int64), total, split="val", among="train", seed=seed)
    return build_image_set(
        name=name,
        ids=annotations.ids,
        labels_N=annotations.labels_N,
        split_N=split_N,
        class_names=annotations.class_names,
        metric=dataset.metric,
        source=FileSource(annotations.root, annotations.ids),
        provenance={
            "source": name,
            "root": str(annotations.root.resolve()),
            "val_given": dataset.val_given,
            "seed": seed,
        },
        cache=cache,
    )


def read_annotations(name: str, root: Path) -> AnnotationIndex:
    """Read the lists of the dataset ``name`` below ``root``; raise as ``load_paper_dataset`` does."""
    dataset = dataset_named(name)
    source = dataset.source
    if not isinstance(source, Published):
        raise InputError(f"{dataset.title} is not a list of image files")
    base = next((root / folder for folder in source.folders if (root / folder / source.marker).exists()), None)
    if base is None:
        raise InputError(f"no {dataset.title} at {str(root)!r}: expected {dataset.layout}; get it from {dataset.where}")
    annotations = source.read(base)
    if not any((annotations.root / id_).is_file() for id_ in annotations.ids):
        raise InputError(f"{dataset.title} at {str(base)!r}: none of its {len(annotations.ids)} images is there")
    return annotations


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The numbers of images and classes that ``check_dataset`` expected and found."""

    dataset: str

    expected: Mapping[str, int]
    """Split -> published number of images, and ``classes`` -> number of classes."""

    found: Mapping[str, int]
    """Split -> number of images in this copy that are listed and there, and ``classes`` -> number of classes."""

    per_class: Mapping[str, Mapping[str, int]]
    """Class -> split -> number of images that are there and show it."""

    missing: tuple[str, ...]
    """Ids of the images that are listed but not there."""

    @property
    def complete(self) -> bool:
        """True if every number is as published and nothing is missing."""
        return dict(self.found) == dict(self.expected) and not self.missing


def check_dataset(name: str, root: Path, *, seed: int = 0) -> Check:
    """Compare the images that are there with the published numbers; raise as ``load_paper_dataset`` does."""
    dataset = dataset_named(name)
    images = load_paper_dataset(name, root, seed=seed)
    source = images.source.original if isinstance(images.source, DigestingSource) else images.source
    ids = [str(id_) for id_ in images.ids_N]
    missing = [id_ for id_ in ids if not (source.root / id_).is_file()] if isinstance(source, FileSource) else []
    there_N = ~np.isin(np.array(ids), np.array(missing, dtype=str))
    per_split = Counter(images.split_N[there_N].tolist())
    counted = {
        class_name: dict(Counter(images.split_N[there_N & shows_N].tolist()))
        for class_name, shows_N in zip(images.class_names, _shown(images), strict=True)
    }
    return Check(
        dataset=name,
        expected={**dataset.sizes, "classes": dataset.num_classes},
        found={**{split: per_split.get(split, 0) for split in dataset.sizes}, "classes": len(images.class_names)},
        per_class=counted,
        missing=tuple(missing),
    )


def download_dataset(name: str, root: Path) -> None:
    """Fetch the dataset ``name`` and unpack it into ``root``.

    Raises UnavailableError, with where to get it, if its publisher serves none.
    """
    dataset = dataset_named(name)
    if not dataset.downloads:
        raise UnavailableError(
            f"{dataset.title} cannot be downloaded from here; get it from {dataset.where}, so that --root holds "
            f"{dataset.layout}"
        )
    fetch(dataset.downloads, root)


def dataset_named(name: str) -> PaperDataset:
    """Return the dataset of that name, or raise UnknownNameError with the nearest names."""
    if name not in PAPER12:
        raise UnknownNameError("dataset", name, PAPER12)
    return PAPER12[name]


def _shown(images: ImageSet) -> list[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    classes = range(len(images.class_names))
    if images.labels_N.ndim == 2:
        return [images.labels_N[:, k] == 1 for k in classes]
    return [images.labels_N == k for k in classes]


PAPER12: dict[str, PaperDataset] = {
    "food101": PaperDataset(
        title="Food-101",
        num_classes=101,
        train=68_175,
        val=7_575,
        test=25_250,
        metric="top1",
        val_given=False,
        source=Published(read=FOOD101.read, folders=(".", "food-101"), marker="meta/train.json"),
        where="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        layout="food-101/images/<class>/*.jpg and food-101/meta/{train,test}.json",
        downloads=(
            Download(url="http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", md5="85eeb15f3717b99a5da872d97d918f87"),
        ),
    ),
    "cifar10": PaperDataset(
        title="CIFAR-10",
        num_classes=10,
        train=45_000,
        val=5_000,
        test=10_000,
        metric="top1",
        val_given=False,
        source=load_cifar10,
        where="https://www.cs.toronto.edu/~kriz/cifar.html",
        layout="cifar-10-batches-py/, or train/<class>/ and test/<class>/",
        downloads=(
            Download(
                url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", md5="c58f30108f718f92721af3b95e74349a"
            ),
        ),
    ),
    "cifar100": PaperDataset(
        title="CIFAR-100",
        num_classes=100,
        train=44_933,
        val=5_067,
        test=10_000,
        metric="top1",
        val_given=False,
        source=load_cifar100,
        where="https://www.cs.toronto.edu/~kriz/cifar.html",
        layout="cifar-100-python/{train,test,meta}",
        downloads=(
            Download(
                url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", md5="eb9058c3a382ffc7106e4002c42a8d85"
            ),
        ),
    ),
    "birdsnap": PaperDataset(
        title="Birdsnap",
        num_classes=500,
        train=42_405,
        val=4_981,
        test=2_443,
        metric="top1",
        val_given=False,
        source=Published(read=read_birdsnap, folders=(".", "birdsnap"), marker="test_images.txt"),
        where="https://thomasberg.org/ (version 1.1; get_birdsnap.py downloads the images)",
        layout="birdsnap/{species,images,test_images}.txt and birdsnap/download/images/ (or birdsnap/images/)",
    ),
    "sun397": PaperDataset(
        title="SUN397",
        num_classes=397,
        train=15_880,
        val=3_970,
        test=19_850,
        metric="top1",
        val_given=False,
        source=Published(read=read_sun397, folders=(".",), marker="SUN397"),
        where="https://vision.princeton.edu/projects/2010/SUN/ (SUN397.tar.gz and Partitions.zip)",
        layout="SUN397/<letter>/<class>/sun_*.jpg and Partitions/{ClassName,Training_01,Testing_01}.txt",
        downloads=(
            Download(
                url="http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                md5="8ca2778205c41d23104230ba66911c7a",
            ),
            Download(
                url="https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
                md5=None,
                into="Partitions",
            ),
        ),
    ),
    "cars": PaperDataset(
        title="Stanford Cars",
        num_classes=196,
        train=6_494,
        val=1_650,
        test=8_041,
        metric="top1",
        val_given=False,
        source=Published(read=CARS.read, folders=(".", "stanford_cars", "cars"), marker="devkit/cars_meta.mat"),
        where="its authors (https://ai.stanford.edu/~jkrause/cars/car_dataset.html, no longer served)",
        layout="cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat",
    ),
    "aircraft": PaperDataset(
        title="FGVC Aircraft",
        num_classes=100,
        train=3_334,
        val=3_333,
        test=3_333,
        metric="mean_per_class",
        val_given=True,
        source=Published(read=AIRCRAFT.read, folders=(".", "fgvc-aircraft-2013b"), marker="data/variants.txt"),
        where="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        layout="fgvc-aircraft-2013b/data/images/ and data/images_variant_{train,val,test}.txt",
        downloads=(
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz", md5=None
            ),
        ),
    ),
    "voc2007": PaperDataset(
        title="PASCAL VOC 2007",
        num_classes=20,
        train=2_501,
        val=2_510,
        test=4_952,
        metric="map11",
        val_given=True,
        source=Published(
            read=read_voc2007, folders=(".", "VOC2007", "VOCdevkit/VOC2007"), marker="ImageSets/Main/train.txt"
        ),
        where="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/ (VOCtrainval and VOCtest)",
        layout="VOCdevkit/VOC2007/{JPEGImages,ImageSets/Main}, both archives unpacked into it",
        downloads=(
            Download(
                url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar",
                md5="c52e279531787c972589f7e41ab4ae64",
            ),
            Download(
                url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar",
                md5="b6e924de25625d8de591ea690078ad9f",
            ),
        ),
    ),
    "dtd": PaperDataset(
        title="Describable Textures",
        num_classes=47,
        train=1_880,
        val=1_880,
        test=1_880,
        metric="top1",
        val_given=True,
        source=Published(read=DTD.read, folders=(".", "dtd", "dtd/dtd"), marker="labels/train1.txt"),
        where="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        layout="dtd/images/<class>/*.jpg and dtd/labels/{train,val,test}1.txt",
        downloads=(
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            ),
        ),
    ),
    "pets": PaperDataset(
        title="Oxford-IIIT Pets",
        num_classes=37,
        train=2_940,
        val=740,
        test=3_669,
        metric="mean_per_class",
        val_given=False,
        source=Published(read=read_pets, folders=(".", "oxford-iiit-pet", "pets"), marker="annotations/trainval.txt"),
        where="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        layout="images/*.jpg and annotations/{trainval,test}.txt",
        downloads=(
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
                md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
                into="oxford-iiit-pet",
            ),
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
                md5="95a8c909bbe2e81eed6a22bccdf3f68f",
                into="oxford-iiit-pet",
            ),
        ),
    ),
    "caltech101": PaperDataset(
        title="Caltech-101",
        num_classes=102,
        train=2_550,
        val=510,
        test=6_084,
        metric="mean_per_class",
        val_given=False,
        source=load_caltech101,
        where="https://data.caltech.edu/records/mzrjq-6wc02",
        layout="101_ObjectCategories/<class>/*.jpg, with BACKGROUND_Google",
    ),
    "flowers": PaperDataset(
        title="Oxford 102 Flowers",
        num_classes=102,
        train=1_020,
        val=1_020,
        test=6_149,
        metric="mean_per_class",
        val_given=True,
        source=Published(read=FLOWERS.read, folders=(".", "flowers-102", "flowers"), marker="setid.mat"),
        where="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        layout="jpg/image_*.jpg, imagelabels.mat and setid.mat",
        downloads=(
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
                md5="52808999861908f626f3c1f4e79d11fa",
                into="flowers-102",
            ),
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/imagelabels.mat",
                md5="e0620be6f572b9609742df49c70aed4d",
                into="flowers-102",
            ),
            Download(
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/setid.mat",
                md5="a5357ecc9cb78c4bef273ce3793fc85c",
                into="flowers-102",
            ),
        ),
    ),
}
"""Name -> dataset, in the order of the paper's table 1."""
