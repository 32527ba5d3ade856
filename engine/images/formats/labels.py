"""Labels and splits as texts, turned into class indices and into the three splits."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.image_set import SPLIT_DTYPE
from penultimate.engine.images.splits import UNLABELLED, check_known, draw_missing_splits, splits_in_name
from penultimate.store.errors import InputError

# Shapes: N samples.


def ordered_classes(labels: Iterable[str]) -> list[str]:
    """The distinct labels, sorted: as numbers if all are integers (equal numbers as texts), else as texts.

    >>> ordered_classes(["10", "9", "9"]), ordered_classes(["10", "9", "x"]), ordered_classes(["1", "01", "2"])
    (['9', '10'], ['10', '9', 'x'], ['01', '1', '2'])
    """
    distinct = sorted(set(labels))
    numbers = all(name.removeprefix("-").isdecimal() for name in distinct)
    return sorted(distinct, key=int) if numbers else distinct


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

    All of one split that is not train tell none: it is to be split itself. Raises InputError for a name that tells
    several, where some names tell one and others none, and for several splits without train.

    >>> splits_by_name(["wds-train-00.tar", "wds-validation-00.tar"]).tolist(), splits_by_name(["my-dev-set"]).tolist()
    (['train', 'val'], ['train'])
    """
    told = [splits_in_name(name) - {UNLABELLED} for name in names]
    for name, splits in zip(names, told, strict=True):
        if len(splits) > 1:
            raise InputError(f"the name {name!r} tells several splits: {', '.join(sorted(splits))}; rename it")
    found = sorted(set().union(*told))
    if silent := [name for name, splits in zip(names, told, strict=True) if found and not splits]:
        raise InputError(
            f"{silent[0]!r} does not tell its split as others do ({', '.join(found)}); name the "
            "split in every file's name or in none"
        )
    if len(found) > 1 and "train" not in found:
        raise InputError(f"the names tell {', '.join(found)} but no train; name the files of one of them alone")
    if "train" not in found:
        return np.full(len(names), "train", SPLIT_DTYPE)
    return np.array([next(iter(splits)) for splits in told], SPLIT_DTYPE)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomSplit:
    """How splits that are not given are drawn; see ``splits.draw_missing_splits``."""

    val_fraction: float = 0.2
    test_fraction: float = 0.2
    seed: int = 0


DEFAULT_RANDOM_SPLIT = RandomSplit()
"""A fifth of every class for val, a fifth for test."""


class Labelling(NamedTuple):
    """Labels and splits of a set's samples."""

    class_names: Sequence[str]

    labels_N: NDArray[np.int64] | NDArray[np.uint8]
    """As ``ImageSet.labels_N``."""

    split_N: NDArray[np.str_]

    @classmethod
    def unlabelled(cls, num_samples: int) -> Self:
        """Unlabelled, all in ``test``: for extraction alone."""
        return cls((), np.full(num_samples, -1, np.int64), np.full(num_samples, "test", SPLIT_DTYPE))

    @classmethod
    def single_label(
        cls,
        labels_N: NDArray[np.int64],
        class_names: Sequence[str],
        given_N: NDArray[np.str_],
        random_split: RandomSplit,
    ) -> Self:
        """With the splits that ``given_N`` lacks drawn from the labelled samples of train.

        Where ``given_N`` is empty, a labelled sample is train's to be drawn from, and an unlabelled one (-1) test's.
        Raises as ``splits.allot``, and InputError for a class of val or test that train lacks.
        """
        train_N = np.where(given_N == "", "train", given_N).astype(SPLIT_DTYPE)
        for split in ("val", "test"):
            _check_classes(labels_N, class_names, train_N, split)
        split_N = draw_missing_splits(train_N, labels_N, class_names, **asdict(random_split))
        return cls(class_names, labels_N, np.where((given_N == "") & (labels_N < 0), "test", split_N))

    @classmethod
    def multi_label(cls, cells: Sequence[Sequence[str]], given_N: NDArray[np.str_], random_split: RandomSplit) -> Self:
        """Of samples with any number of labels each, (N, K) 0/1; missing splits are drawn at random, not stratified."""
        class_names = ordered_classes(label for cell in cells for label in cell)
        index_of = {class_name: label for label, class_name in enumerate(class_names)}
        several_NK = np.zeros((len(cells), len(class_names)), np.uint8)
        for row, cell in enumerate(cells):
            several_NK[row, [index_of[label] for label in cell]] = 1
        alike_N = np.zeros(len(cells), np.int64)
        return cls(
            class_names, several_NK, draw_missing_splits(given_N, alike_N, ["(all labels)"], **asdict(random_split))
        )


def _check_classes(
    labels_N: NDArray[np.int64], class_names: Sequence[str], split_N: NDArray[np.str_], split: str
) -> None:
    in_split_K, in_train_K = (set(labels_N[split_N == one].tolist()) - {-1} for one in (split, "train"))
    if in_split_K and not in_train_K:
        raise InputError(
            f"all labels are of {split}, and none of train, which everything is learned from; leave the split away "
            "to have splits drawn, or take the images without labels (--no-labels)"
        )
    if in_split_K - in_train_K:
        check_known([class_names[k] for k in in_split_K], [class_names[k] for k in in_train_K], split)
