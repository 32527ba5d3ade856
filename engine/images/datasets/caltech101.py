"""Load Caltech-101 (Fei-Fei, Fergus & Perona 2004) as the paper uses it.

Each class gives 30 random training images, here 25 for train and 5 for val, and all others are test. There are 102
classes with ``BACKGROUND_Google``, and the metric is mean per-class accuracy.
"""

from pathlib import Path

import numpy as np

from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.formats.folder import list_classes
from penultimate.engine.images.image_set import SPLIT_DTYPE, ImageSet
from penultimate.engine.images.splits import allot
from penultimate.store.errors import InputError

NUM_CLASSES = 102
TRAIN_IMAGES = 25
VAL_IMAGES = 5


def load_caltech101(root: Path, *, seed: int = 0, cache: DigestCache | None = None) -> ImageSet:
    """Load Caltech-101 from ``root``, which is ``101_ObjectCategories`` or the folder that holds it.

    ``seed`` draws the training images. Ids are relative to ``101_ObjectCategories``. Raises InputError unless there are
    the 102 classes.
    """
    folder = root if root.name == "101_ObjectCategories" else root / "101_ObjectCategories"
    if not folder.is_dir():
        raise InputError(f"no Caltech-101 at {str(root)!r}: expected the folder 101_ObjectCategories in it")

    listing = list_classes(folder)
    if len(listing.class_names) != NUM_CLASSES:
        raise InputError(
            f"Caltech-101 has {NUM_CLASSES} classes with BACKGROUND_Google, but {str(folder)!r} has "
            f"{len(listing.class_names)} class folders"
        )
    split_N = allot(
        np.full(len(listing.ids), "test", SPLIT_DTYPE),
        listing.labels_N,
        listing.class_names,
        lambda _count: {"train": TRAIN_IMAGES, "val": VAL_IMAGES},
        among="test",
        seed=seed,
    )
    return listing.image_set(
        name="caltech101", split_N=split_N, metric="mean_per_class", provenance={"seed": seed}, cache=cache
    )
