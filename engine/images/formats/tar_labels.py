"""Turn the labels that samples of tars carry, texts or lists of them, into class indices or a matrix, and splits."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.formats.labels import Labelling, RandomSplit, label_indices, ordered_classes
from penultimate.engine.images.formats.tables import Columns, several_of
from penultimate.engine.images.image_set import SPLITS
from penultimate.store.errors import InputError, LabelsError

# Shapes: N samples.

TarLabel = str | list[str] | None
"""Label of a sample, a list where its .json has one; None if it has no label or labels are not read."""


def tar_labelling(
    ids: Sequence[str],
    labels: Sequence[TarLabel],
    given_N: NDArray[np.str_],
    *,
    columns: Columns,
    names: Sequence[str] | None,
    random_split: RandomSplit,
) -> Labelling:
    """Label samples and draw the splits that are not given; ``names`` are the classes that numbers from 0 stand for.

    Samples have several labels if one of them has a list, or ``columns.multi_label`` asks for it. Raises InputError for
    a sample of train without a label, for lists beside texts that were not asked to be split, for a number without a
    name, and for what ``Labelling`` refuses.
    """
    _check_labels(ids, labels, given_N, columns.label or "label")
    if not columns.multi_label and not any(isinstance(label, list) for label in labels):
        return _single(labels, names, given_N, random_split)
    if not columns.multi_label:
        _check_lists(ids, labels)
    return _several(labels, names, given_N, random_split)


def _check_labels(ids: Sequence[str], labels: Sequence[TarLabel], given_N: NDArray[np.str_], column: str) -> None:
    """Raise InputError for a sample without a label, unless it is of val or test and none there has one."""
    missing_N = np.array([label is None for label in labels])
    for split in SPLITS:
        in_split_N = given_N == split
        if (missing_N & in_split_N).any() and (split == "train" or not missing_N[in_split_N].all()):
            raise LabelsError(
                f"{ids[int(np.argmax(missing_N & in_split_N))]!r} has no label: expected a .cls, or a .json with "
                f"{column!r}",
                "name another field (--label-column)",
            )


def _check_lists(ids: Sequence[str], labels: Sequence[TarLabel]) -> None:
    """Raise InputError if some samples have a list of labels and others one label."""
    if (odd := next((id_ for id_, label in zip(ids, labels, strict=True) if isinstance(label, str)), None)) is not None:
        raise InputError(
            f"the labels of some samples are lists, and that of {odd!r} is none; take every one as a list of labels, "
            "separated by | where it is a text, with --multi-label (multi_label=True)"
        )


def _single(
    labels: Sequence[TarLabel], names: Sequence[str] | None, given_N: NDArray[np.str_], random_split: RandomSplit
) -> Labelling:
    known_N = np.array([label is not None for label in labels])
    texts = [str(label) for label in labels if label is not None]
    class_of = _classes(texts, names)
    class_names = ordered_classes(texts) if names is None else distinct_names(names)
    labels_N = np.full(len(labels), -1, np.int64)
    labels_N[known_N] = label_indices([class_of[text] for text in texts], class_names)
    return Labelling.single_label(labels_N, class_names, given_N, random_split)


def _several(
    labels: Sequence[TarLabel], names: Sequence[str] | None, given_N: NDArray[np.str_], random_split: RandomSplit
) -> Labelling:
    cells = [label if isinstance(label, list) else several_of(label or "") for label in labels]
    class_of = _classes([text for cell in cells for text in cell], names)
    return Labelling.multi_label([[class_of[text] for text in cell] for cell in cells], given_N, random_split)


def _classes(texts: Sequence[str], names: Sequence[str] | None) -> dict[str, str]:
    """Map each label to its class: with ``names`` the one that its number stands for, else the label itself."""
    distinct = sorted(set(texts))
    if names is None:
        return {text: text for text in distinct}
    if odd := [text for text in distinct if not text.isdecimal() or int(text) >= len(names)]:
        raise InputError(
            f"the label {odd[0]!r} is no number below {len(names)}, the lines of classnames.txt; take that file away "
            "to have the labels as they are"
        )
    known = distinct_names(names)
    return {text: known[int(text)] for text in distinct}


def distinct_names(names: Sequence[str]) -> list[str]:
    """Make class names unique by adding its number to each one that occurs several times.

    >>> distinct_names(["crane", "maillot", "crane"])
    ['crane (0)', 'maillot', 'crane (2)']
    """
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]
