"""AnnotationIndex lists a dataset's images with their classes and splits, as the dataset's own files say."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.image_set import SPLIT_DTYPE
from penultimate.store.errors import InputError

# Shapes: N samples, K classes.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnnotationIndex:
    """The images that a dataset lists. No file was looked at: one that is named here may be missing."""

    root: Path
    """Folder that the paths are relative to."""

    ids: Sequence[str]
    """Paths of the images, sorted and unique."""

    labels_N: NDArray[np.int64] | NDArray[np.uint8]
    """Class indices (N,), or (N, K) as in ``store.labels`` where samples have several labels."""

    split_N: NDArray[np.str_]
    """Split of each image as the dataset gives it; a dataset without ``val`` has ``train`` and ``test``."""

    class_names: Sequence[str]

    @classmethod
    def of(cls, root: Path, rows: Iterable[tuple[str, str, int]], class_names: Sequence[str]) -> "AnnotationIndex":
        """Build the index from rows of (path, split, class index) in any order.

        Raises InputError if a path is named twice.
        """
        ordered = sorted(rows)
        ids = [path for path, _, _ in ordered]
        if repeated := [a for a, b in pairwise(ids) if a == b]:
            raise InputError(f"the lists in {str(root)!r} name {repeated[0]!r} twice")
        return cls(
            root=root,
            ids=ids,
            labels_N=np.array([label for _, _, label in ordered], np.int64),
            split_N=np.array([split for _, split, _ in ordered], SPLIT_DTYPE),
            class_names=class_names,
        )


def lines_of(path: Path) -> list[str]:
    """Read the lines of a list that a dataset comes with, without blank ones; raise InputError if that fails."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {str(path)!r} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
