"""Choose the rows of an ImageSet that a run trains on or is scored on, and check them before anything is started."""

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.train.recipe import Recipe
from penultimate.store.errors import InputError
from penultimate.store.labels import PRESENT
from penultimate.store.trials.subsets import shots_per_class

# Shapes: M images trained on.


def training_rows(images: ImageSet, recipe: Recipe) -> NDArray[np.int64]:
    """Return the labelled rows of the recipe's splits, or ``shots`` of each class.

    Raises InputError if a class has none, the labels do not suit the loss, or the batch is larger than all of them.
    """
    multi_label = images.labels_N.ndim == 2
    if multi_label and recipe.loss == "softmax":
        raise InputError(f"{images.name} has several labels an image, which softmax cannot learn; use --loss sigmoid")
    rows_M = split_rows(images, *recipe.splits)
    if recipe.shots is not None:
        rows_M = rows_M[shots_per_class(images.labels_N[rows_M], images.ids_N[rows_M], recipe.shots, seed=recipe.seed)]
    _check_classes(images, rows_M, recipe)
    if len(rows_M) < recipe.batch_size:
        raise InputError(
            f"batch size {recipe.batch_size} is larger than the {len(rows_M)} training images of {images.name}; "
            f"use --batch-size {len(rows_M)} or smaller"
        )
    return rows_M


def split_rows(images: ImageSet, *splits: str) -> NDArray[np.int64]:
    """Return the labelled rows of the named splits, in increasing order."""
    chosen_N = np.isin(images.split_N, splits)
    if images.labels_N.ndim == 1:
        chosen_N &= images.labels_N >= 0
    return np.flatnonzero(chosen_N)


def _check_classes(images: ImageSet, rows_M: NDArray[np.int64], recipe: Recipe) -> None:
    labels = images.labels_N[rows_M]
    if labels.ndim == 2:
        counts_K = (labels == PRESENT).sum(axis=0)
    else:
        counts_K = np.bincount(labels, minlength=len(images.class_names))
    if labels.ndim == 1 and len(images.class_names) < 2:
        raise InputError(
            f"{images.name} has fewer than two classes ({', '.join(images.class_names) or 'no labels'}); a classifier "
            "needs two or more: is the folder that was named one above or below the class folders?"
        )
    absent = [name for name, count in zip(images.class_names, counts_K.tolist(), strict=True) if count == 0]
    if absent:
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        raise InputError(
            f"{'+'.join(recipe.splits)} of {images.name} has no image of class "
            f"{', '.join(map(repr, absent[:5]))}{more}; "
            "a network cannot learn a class it never sees: add images or remove the class"
        )
