"""Load images that are arrays in ``.npz`` archives and ``.npy`` files, as CIFAR, MNIST and MedMNIST are passed on.

An archive holds ``images`` and ``labels``, or such a pair a split, named as Keras does (``x_train``, ``y_train``) or
as MedMNIST does (``train_images``, ``train_labels``); ``class_names`` may stand beside them. A ``.npy`` holds images,
a ``labels.npy`` beside it their labels. Nothing pickled is loaded.

Labels are one an image, or a row of 0 and 1 with a column a class.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.formats.labels import (
    DEFAULT_RANDOM_SPLIT,
    Labelling,
    RandomSplit,
    checked_indices,
    label_indices,
    numbered,
    ordered_classes,
)
from penultimate.engine.images.image_set import SPLIT_DTYPE, SPLIT_NAMES, ImageSet
from penultimate.engine.images.sources import ArraySource
from penultimate.store.errors import InputError, LabelsError
from penultimate.store.labels import ABSENT, PRESENT

# Shapes: N samples, H x W pixels, C channels: 1 (grayscale) or 3 (RGB), K classes.

ARRAY_SUFFIXES = (".npz", ".npy")

_PAIRS = {("images", "labels"): "train"} | {
    pair: split
    for word, split in SPLIT_NAMES.items()
    for pair in ((f"x_{word}", f"y_{word}"), (f"{word}_images", f"{word}_labels"))
}
"""Names of an array of images and of the array of their labels -> their split."""


def load_arrays(
    path: Path,
    *,
    name: str | None = None,
    labels: bool = True,
    multi_label: bool = False,
    random_split: RandomSplit = DEFAULT_RANDOM_SPLIT,
    metric: str | None = None,
) -> ImageSet:
    """Load the images of a ``.npz`` or ``.npy``: uint8 (N, H, W), (N, H, W, C) or (N, 3, H, W).

    Ids are ``<split>/<row>``. Labels are class indices or texts, (N,) or (N, 1), or a matrix (N, K) of 0 and 1, for
    which the metric is ``map11`` unless another is given; one with a single 1 in every row may be one-hot, and is read
    with ``multi_label`` only. Splits that are not given are drawn as by ``load_folder``; ``labels=False`` needs no
    labels and takes all as ``test``. A ``.npy`` is mapped, not loaded. Raises InputError for anything else, and for
    splits whose images differ in size.
    """
    arrays = _load(path)
    blocks = sorted((split, pair) for pair, split in _PAIRS.items() if pair[0] in arrays)
    if not blocks:
        raise InputError(
            f"{str(path)!r} has no images: expected 'images', 'x_train' or 'train_images', found {sorted(arrays)}"
        )
    parts = [_images(arrays[images], f"{images!r} of {str(path)!r}") for _, (images, _) in blocks]
    if len({part.shape[1:] for part in parts}) > 1:
        raise InputError(f"the images of {str(path)!r} differ in size: {[part.shape[1:] for part in parts]}")
    splits = [(split, len(part)) for (split, _), part in zip(blocks, parts, strict=True)]
    given_N = np.concatenate([np.full(count, split, SPLIT_DTYPE) for split, count in splits])
    ids = [f"{split}/{row:07d}" for split, count in splits for row in range(count)]
    labelling = Labelling.unlabelled(len(ids))
    if labels:
        labels_of = [_label_array(arrays, pair, path) for _, pair in blocks]
        labelled = _several if multi_label or any(part.ndim == 2 for part in labels_of) else _single
        labelling = labelled(labels_of, _class_names(arrays), given_N, repr(str(path)), random_split)
        if labelled is _several and not multi_label:
            _check_not_one_hot(labelling.labels_N, path)
    return build_image_set(
        name=path.stem if name is None else name,
        ids=ids,
        labels_N=labelling.labels_N,
        split_N=labelling.split_N,
        class_names=labelling.class_names,
        metric=metric or ("map11" if labelling.labels_N.ndim == 2 else "top1"),
        source=ArraySource(parts[0] if len(parts) == 1 else np.concatenate(parts), str(path.resolve())),
        provenance={
            "source": "arrays",
            "root": str(path.resolve()),
            "labels": labels,
            "layout": "arrays",
            "seed": random_split.seed,
        },
    )


def _load(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        if path.suffix.lower() == ".npz":
            # NumPy would leave a damaged file open that it opened itself
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                wanted = {"class_names", *(name for pair in _PAIRS for name in pair)}
                return {name: archive[name] for name in archive.files if name in wanted}
        arrays = {"images": np.load(path, mmap_mode="r", allow_pickle=False)}
        beside = path.with_name("labels.npy")
        return arrays | ({"labels": np.load(beside, allow_pickle=False)} if beside.exists() else {})
    except Exception as error:  # zipfile, zlib, struct and NumPy each raise their own for a damaged file
        raise InputError(f"cannot read the arrays of {str(path)!r}: {error}") from error


def _images(images: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """View images as (N, H, W, C), without a copy; raise InputError if they have no such shape."""
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] == 3:
        images = images.transpose(0, 2, 3, 1)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise InputError(
            f"{where} should be uint8 of shape (N, H, W), (N, H, W, 3) or (N, 3, H, W), "
            f"not {images.dtype} of {images.shape}"
        )
    return images


def _label_array(arrays: Mapping[str, NDArray[Any]], pair: tuple[str, str], path: Path) -> NDArray[Any]:
    """Return the labels of a pair of arrays, (N,) or a matrix (N, K); raise InputError if they are neither."""
    images, labels = pair
    if labels not in arrays:
        there = "keep them in a labels.npy beside it" if path.suffix.lower() == ".npy" else "add them to the archive"
        raise LabelsError(f"{str(path)!r} has {images!r} but no {labels!r}", there)
    part, num_images = arrays[labels], len(arrays[images])
    one_each = part.shape in ((num_images,), (num_images, 1)) and part.dtype.kind in "iuU"
    matrix = part.ndim == 2 and len(part) == num_images and part.shape[1] > 1 and part.dtype.kind in "biuf"
    if not one_each and not (matrix and np.isin(part, (ABSENT, PRESENT)).all()):
        raise InputError(
            f"{labels!r} of {str(path)!r} should be a class index or a text for each of {num_images} images, or a "
            f"matrix of 0 and 1 with a row for each, not {part.dtype} of {part.shape}"
        )
    return part[:, 0] if one_each and part.ndim == 2 else part


def _class_names(arrays: Mapping[str, NDArray[Any]]) -> list[str] | None:
    return [str(text) for text in arrays["class_names"].tolist()] if "class_names" in arrays else None


def _single(
    parts: Sequence[NDArray[Any]],
    class_names: Sequence[str] | None,
    given_N: NDArray[np.str_],
    where: str,
    random_split: RandomSplit,
) -> Labelling:
    if class_names is not None:
        labels_N = checked_indices(np.concatenate(parts), class_names, where)
        return Labelling.single_label(labels_N, class_names, given_N, random_split)
    texts = [str(label) for part in parts for label in part.tolist()]
    class_names = ordered_classes(texts)
    return Labelling.single_label(label_indices(texts, class_names), class_names, given_N, random_split)


def _several(
    parts: Sequence[NDArray[Any]],
    class_names: Sequence[str] | None,
    given_N: NDArray[np.str_],
    where: str,
    random_split: RandomSplit,
) -> Labelling:
    shapes = [part.shape for part in parts]
    if any(part.ndim != 2 for part in parts) or len({part.shape[1] for part in parts}) > 1:
        raise InputError(
            f"several labels an image (--multi-label) are a matrix of 0 and 1 with a column a class, alike in all "
            f"splits; the labels of {where} have the shapes {', '.join(map(str, shapes))}"
        )
    num_classes = shapes[0][1]
    names = numbered(num_classes) if class_names is None else class_names
    if len(names) != num_classes:
        raise InputError(f"{where} has {len(names)} class names, and {num_classes} columns of labels")
    return Labelling.label_matrix(np.concatenate(parts).astype(np.uint8), names, given_N, random_split)


def _check_not_one_hot(labels_NK: NDArray[Any], path: Path) -> None:
    """Raise InputError if every row has a single 1, so that one label an image may be meant as well as several."""
    if (labels_NK.sum(axis=1) == 1).all():
        raise InputError(
            f"every row of the labels of {str(path)!r} has one 1: if they are one-hot, keep labels.argmax(axis=1) in "
            "their place; if an image may show several classes, say --multi-label (multi_label=True)"
        )
