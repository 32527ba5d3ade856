"""Turn labels and splits that are texts into class indices and into the three splits."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.image_set import SPLIT_DTYPE
from penultimate.engine.images.splits import UNLABELLED, check_known, draw_missing_splits, splits_in_name
from penultimate.engine.runtime.seeds import check_seed
from penultimate.store.errors import InputError, LabelsError
from penultimate.store.labels import PRESENT

# Shapes: N samples, K classes.


def ordered_classes(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels, sorted as numbers if all are integers (equal numbers as texts), else as texts.

    >>> ordered_classes(["10", "9", "9"]), ordered_classes(["10", "9", "x"]), ordered_classes(["1", "01", "2"])
    (['9', '10'], ['10', '9', 'x'], ['01', '1', '2'])
    """
    distinct = sorted(set(labels))
    numbers = all(name.removeprefix("-").isdecimal() for name in distinct)
    return sorted(distinct, key=int) if numbers else distinct


def label_indices(labels: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    """Return the (N,) position of each label in ``class_names``."""
    index_of = {class_name: index for index, class_name in enumerate(class_names)}
    return np.array([index_of[label] for label in labels], np.int64)


def checked_indices(labels_N: NDArray[Any], class_names: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return (N,) labels as int64 after checking that they are positions in ``class_names``.

    Raises InputError unless they are; its message calls their origin ``where``.
    """
    whole = labels_N.dtype.kind in "iu"
    if not whole or labels_N.min(initial=0) < 0 or labels_N.max(initial=0) >= len(class_names):
        found = f"{labels_N.min()} to {labels_N.max()}" if whole else str(labels_N.dtype)
        raise LabelsError(
            f"labels of {where} should be positions in its {len(class_names)} class names, got {found}",
            "correct them",
        )
    return labels_N.astype(np.int64)


def splits_by_name(names: Sequence[str]) -> NDArray[np.str_]:
    """Return the split that each file's name tells by one of its words (``train-0001.tar``), else ``train``.

    If all names tell the same split and it is not train, they are taken as ``train`` and split anew. Raises InputError
    for a name that tells several splits, where some names tell one and others none, and for several splits without
    train.

    >>> splits_by_name(["wds-train-00.tar", "wds-validation-00.tar"]).tolist(), splits_by_name(["my-dev-set"]).tolist()
    (['train', 'val'], ['train'])
    """
    named_splits = [splits_in_name(name) - {UNLABELLED} for name in names]
    for name, splits in zip(names, named_splits, strict=True):
        if len(splits) > 1:
            raise InputError(f"the name {name!r} tells several splits: {', '.join(sorted(splits))}; rename it")
    found = sorted(set().union(*named_splits))
    if silent := [name for name, splits in zip(names, named_splits, strict=True) if found and not splits]:
        raise InputError(
            f"{silent[0]!r} does not tell its split as others do ({', '.join(found)}); name the "
            "split in every file's name or in none"
        )
    if len(found) > 1 and "train" not in found:
        raise InputError(f"the names tell {', '.join(found)} but no train; name the files of one of them alone")
    if "train" not in found:
        return np.full(len(names), "train", SPLIT_DTYPE)
    return np.array([next(iter(splits)) for splits in named_splits], SPLIT_DTYPE)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomSplit:
    """Parameters of the random split that ``splits.draw_missing_splits`` makes where splits are not given."""

    val_fraction: float = 0.2
    """Fraction of each class held out for val, in [0, 1)."""

    test_fraction: float = 0.2
    """Fraction of each class held out for test, in [0, 1)."""

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)


DEFAULT_RANDOM_SPLIT = RandomSplit()
"""A random split with a fifth of every class for val and a fifth for test."""


class Labelling(NamedTuple):
    """Labels and splits of a set's samples."""

    class_names: Sequence[str]

    labels_N: NDArray[np.int64] | NDArray[np.uint8]
    """Labels with the shapes and meanings of ``ImageSet.labels_N``."""

    split_N: NDArray[np.str_]
    """Split of each sample: ``train``, ``val`` or ``test``."""

    @classmethod
    def unlabelled(cls, num_samples: int) -> Self:
        """Leave all samples unlabelled and put them into ``test``, for extraction alone."""
        return cls((), np.full(num_samples, -1, np.int64), np.full(num_samples, "test", SPLIT_DTYPE))

    @classmethod
    def single_label(
        cls,
        labels_N: NDArray[np.int64],
        class_names: Sequence[str],
        given_N: NDArray[np.str_],
        random_split: RandomSplit,
    ) -> Self:
        """Label each sample with one class, and draw the splits that ``given_N`` lacks from the labelled ones of train.

        Where ``given_N`` is empty, a labelled sample counts as train's, and an unlabelled one (-1) is put into test.
        Raises what ``splits.allot`` raises, and InputError for a class of val or test that train lacks.
        """
        train_N = np.where(given_N == "", "train", given_N).astype(SPLIT_DTYPE)
        for split in ("val", "test"):
            _check_classes(labels_N, class_names, train_N, split)
        split_N = draw_missing_splits(train_N, labels_N, class_names, **asdict(random_split))
        return cls(class_names, labels_N, np.where((given_N == "") & (labels_N < 0), "test", split_N))

    @classmethod
    def multi_label(
        cls,
        cells: Sequence[Sequence[str]],
        given_N: NDArray[np.str_],
        random_split: RandomSplit,
        *,
        class_names: Sequence[str] | None = None,
    ) -> Self:
        """Label samples with any number of classes each; ``class_names`` are those that occur unless they are given.

        Cells that hold equally many, two or more, 0s and 1s and nothing else are the rows of a matrix, whose classes
        are called by their columns' numbers. Raises what ``label_matrix`` raises.
        """
        if class_names is None and _are_rows_of_a_matrix(cells):
            several_NK = np.array(cells).astype(np.uint8)
            return cls.label_matrix(several_NK, numbered(several_NK.shape[1]), given_N, random_split)
        if class_names is None:
            class_names = ordered_classes(label for cell in cells for label in cell)
        index_of = {class_name: label for label, class_name in enumerate(class_names)}
        several_NK = np.zeros((len(cells), len(class_names)), np.uint8)
        for row, cell in enumerate(cells):
            several_NK[row, [index_of[label] for label in cell]] = PRESENT
        return cls.label_matrix(several_NK, class_names, given_N, random_split)

    @classmethod
    def label_matrix(
        cls,
        several_NK: NDArray[np.uint8],
        class_names: Sequence[str],
        given_N: NDArray[np.str_],
        random_split: RandomSplit,
    ) -> Self:
        """Label samples with the classes whose columns of ``several_NK`` are 1; missing splits are drawn unstratified.

        Raises InputError for a given split in which no sample shows any class, which says that it has no labels, and
        for a class of a given val or test that train lacks.
        """
        _check_matrix(several_NK, class_names, given_N)
        alike_N = np.zeros(len(several_NK), np.int64)
        return cls(
            class_names, several_NK, draw_missing_splits(given_N, alike_N, ["(all labels)"], **asdict(random_split))
        )


def numbered(num_classes: int) -> list[str]:
    """Return the names of classes that have none: their numbers from 0."""
    return [str(label) for label in range(num_classes)]


def _are_rows_of_a_matrix(cells: Sequence[Sequence[str]]) -> bool:
    lengths = {len(cell) for cell in cells}
    return len(lengths) == 1 and min(lengths) > 1 and {label for cell in cells for label in cell} <= {"0", "1"}


def _check_matrix(several_NK: NDArray[np.uint8], class_names: Sequence[str], given_N: NDArray[np.str_]) -> None:
    shown_K: dict[str, list[int]] = {
        split: np.flatnonzero((several_NK[given_N == split] == PRESENT).any(0)).tolist()
        for split in sorted(set(given_N.tolist()))
    }
    if without := [split for split, labels in shown_K.items() if not labels]:
        raise LabelsError(
            f"no image of {' and '.join(without)} shows any class, so that nothing could be learned or scored there",
            "if the labels are not known, leave those images away",
        )
    for split in (each for each in shown_K if each != "train"):
        check_known([class_names[k] for k in shown_K[split]], [class_names[k] for k in shown_K.get("train", ())], split)


def _check_classes(
    labels_N: NDArray[np.int64], class_names: Sequence[str], split_N: NDArray[np.str_], split: str
) -> None:
    in_split_K, in_train_K = (set(np.unique(labels_N[split_N == one]).tolist()) - {-1} for one in (split, "train"))
    if in_split_K and not in_train_K:
        raise LabelsError(
            f"all labels are of {split}, and none of train, which everything is learned from",
            "leave the split away to have splits drawn",
        )
    if in_split_K - in_train_K:
        check_known([class_names[k] for k in in_split_K], [class_names[k] for k in in_train_K], split)
