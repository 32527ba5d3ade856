"""Load folders of image files, with the classes and splits that ``layout`` reads from the names of folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.folders.folder_index import index_folder
from penultimate.engine.images.formats.labels import Labelling, RandomSplit
from penultimate.engine.images.image_set import SPLIT_DTYPE, ImageSet
from penultimate.engine.images.layout import Interpretation, interpret
from penultimate.engine.images.sources import FileSource

# Shapes: N samples.


def load_folder(
    root: Path,
    *,
    name: str | None = None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    labels: bool = True,
    splits: bool = True,
    metric: str = "top1",
    cache: DigestCache | None = None,
) -> ImageSet:
    """Load the image files below ``root``; ids are paths relative to it, and links are followed.

    ``layout`` has the rules for classes and splits. Splits that are not given are stratified fractions of train:
    ``val`` where train and test are there, both where neither is. ``labels=False`` takes every image at any depth,
    unlabelled and all in ``test``, for extraction alone. Raises InputError for a missing or empty folder, images
    without class folders, a class too small to split, and a class of val or test that train lacks.
    """
    found = interpret(index_folder(root), name=str(root), labels=labels, reader="images", splits=splits)
    random_split = RandomSplit(val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    return read_folder(root, found, name=name, labels=labels, random_split=random_split, metric=metric, cache=cache)


def read_folder(
    root: Path,
    found: Interpretation,
    *,
    name: str | None = None,
    labels: bool = True,
    random_split: RandomSplit,
    metric: str = "top1",
    cache: DigestCache | None = None,
) -> ImageSet:
    """Load the images that ``found`` names; raise as ``load_folder`` does."""
    listed = LabelledFiles.of(root, found)
    labelling = Labelling.unlabelled(len(listed.ids))
    provenance: dict[str, Any] = {"labels": False}
    if labels:
        labelling = Labelling.single_label(listed.labels_N, listed.class_names, listed.given_N, random_split)
        provenance = {
            "val_fraction": random_split.val_fraction,
            "test_fraction": random_split.test_fraction,
            "seed": random_split.seed,
        }
    return listed.image_set(
        name=root_name(root) if name is None else name,
        split_N=labelling.split_N,
        metric=metric,
        provenance=provenance,
        cache=cache,
    )


def root_name(root: Path) -> str:
    """Return the folder's own name, for people; that of the root of the file system is ``root``."""
    return root.resolve().name or "root"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledFiles:
    """The image files of class folders with their labels and given splits, before any split is drawn."""

    root: Path

    ids: Sequence[str]
    """Paths relative to ``root``, sorted."""

    labels_N: NDArray[np.int64]
    """Class index of each image, -1 for one in no class folder."""

    given_N: NDArray[np.str_]
    """Split whose folder each image is in; empty text where it is in none."""

    found: Interpretation

    @classmethod
    def of(cls, root: Path, found: Interpretation) -> "LabelledFiles":
        """Take the image files that ``found`` names, below ``root``."""
        return cls(
            root=root,
            ids=found.files,
            labels_N=np.array(found.labels, np.int64),
            given_N=np.array(found.splits, SPLIT_DTYPE),
            found=found,
        )

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes, in the order of the indices in ``labels_N``."""
        return self.found.class_names

    @property
    def split_N(self) -> NDArray[np.str_]:
        """Split of each image: the given one, or ``train`` where none is given."""
        return np.where(self.given_N == "", "train", self.given_N).astype(SPLIT_DTYPE)

    def image_set(
        self,
        *,
        name: str,
        split_N: NDArray[np.str_],
        metric: str,
        provenance: Mapping[str, Any],
        cache: DigestCache | None,
    ) -> ImageSet:
        """Build the ImageSet of these files with the splits ``split_N``."""
        return build_image_set(
            name=name,
            ids=self.ids,
            labels_N=self.labels_N,
            split_N=split_N,
            class_names=self.class_names,
            metric=metric,
            source=FileSource(self.root, self.ids),
            provenance={
                "source": "folder",
                "root": str(self.root.resolve()),
                "split_folders": sorted(self.found.split_folders),
                "layout": self.found.sentence,
                "left_out": dict(self.found.left_out),
                **provenance,
            },
            cache=cache,
        )


def list_classes(root: Path) -> LabelledFiles:
    """List the images below ``root/class`` or ``root/split/class``; raise as ``load_folder`` does."""
    return LabelledFiles.of(root, interpret(index_folder(root), name=str(root), reader="images"))


def list_images(root: Path) -> Sequence[str]:
    """List the image files below ``root`` at any depth as sorted relative paths; raise InputError if there are none."""
    return interpret(index_folder(root), name=str(root), labels=False, reader="images").files
