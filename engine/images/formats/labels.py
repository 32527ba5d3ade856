"""Labels and splits as texts, turned into class indices and into the three splits."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.image_set import SPLIT_DTYPE, SPLIT_NAMES
from penultimate.engine.images.splits import draw_missing_splits
from penultimate.store.errors import InputError

# Shapes: N samples.


def ordered_classes(labels: Iterable[str]) -> list[str]:
    """The distinct labels, sorted: as numbers if all are integers, else as texts.

    >>> ordered_classes(["10", "9", "9"]), ordered_classes(["10", "9", "x"])
    (['9', '10'], ['10', '9', 'x'])
    """
    distinct = set(labels)
    return sorted(distinct, key=int if all(name.removeprefix("-").isdecimal() for name in distinct) else None)


def label_indices(labels: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    """(N,) position of each label in ``class_names``."""
    index_of = {class_name: index for index, class_name in enumerate(class_names)}
    return np.array([index_of[label] for label in labels], np.int64)


def checked_indices(labels_N: NDArray[Any], class_names: Sequence[str], where: str) -> NDArray[np.int64]:
    """(N,) labels that are positions in ``class_names`` already; InputError unless they are. ``where`` says of what."""
    whole = labels_N.dtype.kind in "iu"
    if not whole or labels_N.min(initial=0) < 0 or labels_N.max(initial=0) >= len(class_names):
        found = f"{labels_N.min()} to {labels_N.max()}" if whole else str(labels_N.dtype)
        raise InputError(
            f"labels of {where} should be positions in its {len(class_names)} class names, got {found}; "
            "take the images without labels (--no-labels) if there are none"
        )
    return labels_N.astype(np.int64)


def splits_by_name(names: Sequence[str]) -> NDArray[np.str_]:
    """The split that each file's name tells by one of its words (``train-0001.tar``); ``train`` if none tells any.

    Raises InputError for a name that tells several, and where some names tell one and others none.

    >>> splits_by_name(["wds-train-00.tar", "wds-validation-00.tar"]).tolist()
    ['train', 'val']
    """
    told = [{SPLIT_NAMES[word] for word in re.split("[^a-z]+", name.lower()) if word in SPLIT_NAMES} for name in names]
    for name, splits in zip(names, told, strict=True):
        if len(splits) > 1:
            raise InputError(f"the name {name!r} tells several splits: {', '.join(sorted(splits))}; rename it")
    if not any(told):
        return np.full(len(names), "train", SPLIT_DTYPE)
    if silent := [name for name, splits in zip(names, told, strict=True) if not splits]:
        raise InputError(
            f"{silent[0]!r} does not tell its split as others do ({', '.join(sorted(set().union(*told)))}); name the "
            "split in every file's name or in none"
        )
    return np.array([next(iter(splits)) for splits in told], SPLIT_DTYPE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """How splits that are not given are drawn; see ``splits.draw_missing_splits``."""

    val_fraction: float = 0.2
    test_fraction: float = 0.2
    seed: int = 0


USUAL_DRAW = Draw()
"""A fifth of every class for val, a fifth for test."""


class Labelling(NamedTuple):
    """Labels and splits of a set's samples."""

    class_names: Sequence[str]
    labels_N: NDArray[np.int64]
    split_N: NDArray[np.str_]

    @classmethod
    def absent(cls, num_samples: int) -> Self:
        """Unlabelled, all in ``test``: for extraction alone."""
        return cls((), np.full(num_samples, -1, np.int64), np.full(num_samples, "test", SPLIT_DTYPE))

    @classmethod
    def drawn(
        cls, labels_N: NDArray[np.int64], class_names: Sequence[str], given_N: NDArray[np.str_], draw: Draw
    ) -> Self:
        """With the splits that ``given_N`` lacks drawn; raises as ``splits.allot``."""
        split_N = draw_missing_splits(given_N, labels_N, class_names, **asdict(draw))
        return cls(class_names, labels_N, split_N)
