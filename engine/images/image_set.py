"""ImageSet: ordered image samples with ids, labels and splits; what every later row is traced back to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.digest_cache import Stamp
from penultimate.engine.metrics import METRICS

# Shapes: N samples, K classes.

Strings = np.ndarray[Any, np.dtypes.StringDType]
"""Variable-length strings, one a sample."""

SPLITS = ("train", "val", "test")

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""What people call a split, in lower case -> what it is called here."""

SPLIT_DTYPE = np.dtype("<U5")
"""Of ``split_N``: wide enough for each of SPLITS."""


class ImageSource(Protocol):
    """Where the bytes or pixels of a sample come from; several threads may read at once."""

    @property
    def place(self) -> str:
        """Where the samples lie, told apart from every other place: an absolute path, usually."""

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Encoded file contents, or pixels of shape (H, W, 3), of sample ``index``; OSError if it is gone."""

    def stamp(self, index: int) -> Stamp:
        """By which sample ``index`` is known again without reading it, or UNKNOWN; OSError if it is gone."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageSet:
    """Ordered samples; the order is that of the ids, and a sample's position is its row everywhere."""

    name: str
    """For people: ``caltech101``, or a folder's name."""

    ids_N: Strings
    """Relative path or tar key; unique, strictly increasing."""

    labels_N: NDArray[np.int64] | NDArray[np.uint8]
    """(N,) int64 class indices (-1: unlabelled), or (N, K) uint8 as ``store.labels`` has them, of several labels."""

    split_N: NDArray[np.str_]
    """``train``, ``val`` or ``test``."""

    class_names: tuple[str, ...]

    metric: str
    """The dataset's own: ``top1``, ``mean_per_class`` or ``map11``."""

    source: ImageSource

    digest: str
    """16 hex digits over ids, labels, splits and file contents."""

    provenance: Mapping[str, Any]
    """JSON-able: where the images were, how they were split, with which seed."""

    def __post_init__(self) -> None:
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
