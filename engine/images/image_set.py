"""ImageSet holds ordered image samples with ids, labels and splits; every row of features refers back to one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.contents import Contents
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.metrics import METRICS
from penultimate.store.errors import InputError
from penultimate.store.format.contents import set_digest
from penultimate.store.format.digest import digest_of

# Shapes: N samples, K classes.

Strings = np.ndarray[Any, np.dtypes.StringDType]
"""Variable-length strings, one a sample."""

SPLITS = ("train", "val", "test")

SPLIT_NAMES = (
    {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    | {"training": "train", "trainval": "train", "dev": "val", "testing": "test"}
    | {"eval": "test", "evaluation": "test"}
)
"""Common name of a split, in lower case -> its name in SPLITS."""

SPLIT_DTYPE = np.dtype("<U5")
"""Dtype of ``split_N``, wide enough for each of SPLITS."""


def check_dataset_name(name: str) -> None:
    """Raise InputError for a name that no group of a store can have: nothing but spaces, ``.`` or ``..``.

    In a path, ``..`` would lead out of the store, and no name at all to the root of the file system.
    """
    if not name.strip() or name in (".", ".."):
        raise InputError(f"images cannot be called {name!r}; expected a name such as 'pets'")


@dataclass(frozen=True, kw_only=True, eq=False)  # without slots: its digests are cached properties
class ImageSet:
    """An ordered set of samples. The order is that of the ids, and a sample's position is its row everywhere.

    It is known from a listing alone: a sample is read when its pixels are needed, or the set's digest is.
    """

    name: str
    """Name for people, such as ``caltech101``, or the name of a folder."""

    ids_N: Strings
    """Relative path or tar key of each sample; unique and strictly increasing."""

    labels_N: NDArray[np.int64] | NDArray[np.uint8]
    """Class indices (N,) int64, -1 where unlabelled; or, for several labels a sample, (N, K) uint8 as in
    ``store.labels``."""

    split_N: NDArray[np.str_]
    """Split of each sample: ``train``, ``val`` or ``test``."""

    class_names: tuple[str, ...]

    metric: str
    """Name of the dataset's own metric: ``top1``, ``mean_per_class`` or ``map11``."""

    source: ImageSource
    """Source of the samples, which remembers in ``contents`` what it has read."""

    contents: Contents
    """Content digests of the samples as far as they are known."""

    provenance: Mapping[str, Any]
    """Origin of the images, and how and with which seed they were split, as values that JSON can hold."""

    subset_of: "tuple[ImageSet, NDArray[np.int64]] | None" = None
    """The whole set and the rows of it that these samples are, which name a subset; None for a whole set."""

    def __post_init__(self) -> None:
        check_dataset_name(self.name)
        n = len(self.ids_N)
        if len(self.labels_N) != n or len(self.split_N) != n:
            raise ValueError(f"{n} ids need as many labels and splits, got {len(self.labels_N)}, {len(self.split_N)}")
        if not np.all(self.ids_N[:-1] < self.ids_N[1:]):
            raise ValueError("ids must be unique and in increasing order")
        if unknown := set(self.split_N.tolist()) - set(SPLITS):
            raise ValueError(f"splits must be among {SPLITS}, got {sorted(unknown)}")
        if self.metric not in METRICS:
            raise ValueError(f"metric must be among {tuple(METRICS)}, got {self.metric!r}")

    def __len__(self) -> int:
        return len(self.ids_N)

    @cached_property
    def digest(self) -> str:
        """Digest of ids, labels, splits, class names and file contents, 16 hex digits.

        Samples whose contents are not known yet are read first, of a subset those of the whole set. Raises what
        ``Contents.complete`` raises.
        """
        if self.subset_of is not None:
            whole, rows_M = self.subset_of
            return digest_of([whole.digest, rows_M.tolist()])
        return self._digest(self.contents.complete(self.source))

    @cached_property
    def listing_digest(self) -> str:
        """Digest of ids, labels, splits and class names alone, 16 hex digits, for which nothing is read."""
        return self._digest(None)

    def _digest(self, contents_N3: NDArray[np.uint64] | None) -> str:
        return set_digest(
            ids=self.ids_N,
            labels_N=self.labels_N,
            split_N=self.split_N,
            class_names=self.class_names,
            contents_N3=contents_N3,
        )
