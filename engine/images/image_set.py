"""ImageSet holds ordered image samples with ids, labels and splits; every row of features refers back to one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.digest_cache import FileFingerprint
from penultimate.engine.metrics import METRICS
from penultimate.store.errors import InputError

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


class ImageSource(Protocol):
    """A source of the bytes or pixels of samples; several threads may read at once."""

    @property
    def location(self) -> str:
        """Unique name of the location of the samples, usually an absolute path; the digest cache goes by it."""

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Read the encoded file, or the pixels (H, W, 3), of sample ``index``; raise OSError if it is gone."""

    def fingerprint(self, index: int) -> FileFingerprint:
        """Return the fingerprint that recognises sample ``index`` without reading it, or UNKNOWN.

        Raises OSError if the sample is gone.
        """


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageSet:
    """An ordered set of samples. The order is that of the ids, and a sample's position is its row everywhere."""

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

    digest: str
    """Digest of ids, labels, splits and file contents, 16 hex digits."""

    provenance: Mapping[str, Any]
    """Origin of the images, and how and with which seed they were split, as values that JSON can hold."""

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
