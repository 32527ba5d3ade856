"""Measure the ImageNet top-1 and top-5 accuracy of a network with its own classifier, on a local validation folder."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.timm_backbone import TimmBackbone
from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.formats.folder import list_images
from penultimate.engine.images.image_set import SPLIT_DTYPE, ImageSet
from penultimate.engine.images.sources import FileSource
from penultimate.store.errors import DecodeError, InputError

# Shapes: N images, B images of a batch, K = 1000 classes.

NUM_CLASSES = 1000
LABELS = "labels.csv"
"""Name of a table beside images that lie in no class folders, with columns file and imagenet_class_index (0 to 999)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageNetScore:
    """The accuracy that ``imagenet_eval`` measured."""

    model: str

    top1: float
    """Fraction of images whose best class is theirs."""

    top5: float
    """Fraction of images whose class is among the best five."""

    num_images: int
    """Number of images that were scored; 50,000 in the whole validation set."""

    failed: Mapping[str, str]
    """Id -> reason, for images that could not be decoded and are not scored."""

    images: str
    """Digest of the ImageSet."""

    preprocess: str
    """Digest of the Preprocess."""


def imagenet_images(root: Path) -> ImageSet:
    """Load the ImageNet validation images below ``root``, labelled with ImageNet's class indices 0 to 999.

    They are either in ``root/<wnid>/*.JPEG`` with the class folders of ImageNet (``n01440764`` ...; any of the 1000),
    or have ``labels.csv`` beside them. Raises InputError for anything else.
    """
    if (root / LABELS).is_file():
        labels = _labels_in_table(root / LABELS)
    elif root.is_dir():
        labels = _labels_of_folders(root)
    else:
        raise InputError(f"no folder {str(root)!r}; expected the ImageNet validation images")
    ids = sorted(labels)
    return build_image_set(
        name="imagenet",
        ids=ids,
        labels_N=np.array([labels[id_] for id_ in ids], np.int64),
        split_N=np.full(len(ids), "test", SPLIT_DTYPE),
        class_names=_synsets(),
        metric="top1",
        source=FileSource(root, ids),
        provenance={"source": "imagenet", "root": str(root.resolve())},
    )


def imagenet_eval(
    backbone: TimmBackbone,
    images: ImageSet,
    decoder: Decoder,
    *,
    batch_size: int = 64,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> ImageNetScore:
    """Measure top-1 and top-5 of the classifier that came with the weights, on the images of ``imagenet_images``.

    ``report`` is called with (images done, images to do) after every batch. Raises InputError unless the classifier
    has ImageNet's 1000 classes, DecodeError if not one image can be decoded.
    """
    if backbone.num_classes != NUM_CLASSES:
        raise InputError(
            f"{backbone.name} has a classifier of {backbone.num_classes} classes, ImageNet has {NUM_CLASSES}"
        )
    rank_of_truth = []
    failed: dict[str, str] = {}
    done = 0
    indices_N = np.arange(len(images), dtype=np.int64)
    for batch in decoder.batches(images, indices_N, [backbone.preprocess], batch_size=batch_size):
        if len(batch.indices_B):
            labels_B = np.asarray(images.labels_N[batch.indices_B], np.int64)
            rank_of_truth.append(_rank(backbone.logits(batch.views[0]), labels_B))
        failed |= {str(images.ids_N[index]): reason for index, reason in batch.failed.items()}
        done += len(batch.indices_B) + len(batch.failed)
        report(done, len(images))
    if not rank_of_truth:
        raise DecodeError(f"not one of {len(images)} images could be decoded: {next(iter(failed.values()))}")
    rank_N = np.concatenate(rank_of_truth)
    return ImageNetScore(
        model=backbone.name,
        top1=float(np.mean(rank_N < 1)),
        top5=float(np.mean(rank_N < 5)),
        num_images=len(rank_N),
        failed=failed,
        images=images.digest,
        preprocess=backbone.preprocess.digest,
    )


def _rank(logits_BK: NDArray[np.float32], labels_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of classes that score above the true one, (B,).

    A tie counts against the true class, so that a constant output scores nothing.
    """
    truth_B = np.take_along_axis(logits_BK, labels_B[:, None], axis=1)
    rank_B: NDArray[np.int64] = (logits_BK >= truth_B).sum(axis=1) - 1
    return rank_B


def _labels_of_folders(root: Path) -> dict[str, int]:
    index_of = {synset: index for index, synset in enumerate(_synsets())}
    labels = {}
    for id_ in list_images(root):
        folder, _, rest = id_.partition("/")
        if not rest or folder not in index_of:
            raise InputError(
                f"{id_!r} in {str(root)!r} is in no class folder of ImageNet (n01440764, ...); sort the validation "
                f"images into one folder a class, or put {LABELS} with columns file, imagenet_class_index beside them"
            )
        labels[id_] = index_of[folder]
    return labels


def _labels_in_table(table: Path) -> dict[str, int]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if not {"file", "imagenet_class_index"} <= set(columns):
            raise InputError(f"{table} must have columns file and imagenet_class_index, it has {', '.join(columns)}")
        rows = list(reader)
    labels = {row["file"]: int(text) if (text := row["imagenet_class_index"] or "").isdecimal() else -1 for row in rows}
    wrong = [name for name, label in labels.items() if not 0 <= label < NUM_CLASSES]
    if wrong or not labels:
        raise InputError(
            f"{table}: imagenet_class_index must be 0 to {NUM_CLASSES - 1}; wrong for {wrong[:3] or 'all'}"
        )
    return labels


def _synsets() -> list[str]:
    """Return the WordNet ids of ImageNet's classes in order of class index, as timm has them."""
    from timm.data.imagenet_info import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())  # type: ignore[no-untyped-call]
