"""Image folders: ``root/class/*`` and ``root/train|val|test/class/*``."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.image_set import SPLIT_DTYPE, SPLIT_NAMES, ImageSet
from penultimate.engine.images.sources import FileSource
from penultimate.engine.images.splits import draw_missing_splits
from penultimate.store.errors import InputError

# Shapes: N samples.

_JPEG = ("jpg", "jpeg", "jpe", "jfif")
_OTHER = ("png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "jp2", "avif")
IMAGE_SUFFIXES = frozenset(f".{kind}" for kind in (*_JPEG, *_OTHER))
"""What counts as an image in a folder, compared in lower case."""

_LISTING_THREADS = 16
"""Listing waits for the file system, not for a core: on a network each folder costs a round trip."""

_SUFFIXES_SHOWN = "known suffixes: " + " ".join(sorted(IMAGE_SUFFIXES))


def load_folder(
    root: Path,
    *,
    name: str | None = None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    labels: bool = True,
    metric: str = "top1",
    cache: DigestCache | None = None,
) -> ImageSet:
    """Images below ``root``; ids are paths relative to it, hidden files are left out, links are followed.

    Given are ``train`` and ``test`` folders: they are kept, and ``val`` is a stratified share of train if there is
    none. ``train`` and ``val`` only: no sample is test. Otherwise the first level is the classes, and every class
    is split by ``val_fraction`` and ``test_fraction``. ``labels=False`` takes every image at any depth, unlabelled
    and all in ``test``, for extraction alone. Raises InputError for a missing or empty folder, images without class
    folders, a class too small to split, and a class of val or test that train lacks.
    """
    if not root.is_dir():
        raise InputError(f"no folder {str(root)!r}" + (" (it is a file)" if root.exists() else ""))
    name = root.resolve().name if name is None else name
    if not labels:
        return _unlabelled(root, name, cache)
    listing = list_classes(root)
    split_N = draw_missing_splits(
        listing.split_N,
        listing.labels_N,
        listing.class_names,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    return listing.image_set(
        name=name,
        split_N=split_N,
        metric=metric,
        provenance={"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": seed},
        cache=cache,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Listing:
    """What class folders hold, before any split is drawn."""

    root: Path

    ids: Sequence[str]
    """Paths relative to ``root``, sorted."""

    labels_N: NDArray[np.int64]

    split_N: NDArray[np.str_]
    """As ``split_folders`` say; ``train`` where there are none."""

    split_folders: Sequence[str]
    """The splits that the first level is made of; empty if it is made of classes."""

    class_names: Sequence[str]

    def image_set(
        self,
        *,
        name: str,
        split_N: NDArray[np.str_],
        metric: str,
        provenance: Mapping[str, Any],
        cache: DigestCache | None,
    ) -> ImageSet:
        """These files with the splits drawn."""
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
                "split_folders": list(self.split_folders),
                **provenance,
            },
            cache=cache,
        )


def list_classes(root: Path) -> Listing:
    """The images below ``root/class`` or ``root/split/class``; raises as ``load_folder``."""
    if not root.is_dir():
        raise InputError(f"no folder {str(root)!r}" + (" (it is a file)" if root.exists() else ""))
    parts = _parts(root)
    classes = _class_folders(root, parts)
    folders = [
        (split, label, f"{parts.get(split, '')}{class_name}")
        for label, class_name in enumerate(classes["train"])
        for split, names in classes.items()
        if class_name in names
    ]
    listed = list_images(root, *(folder for _, _, folder in folders))
    members = sorted((id_, split, label) for (split, label, _), ids in zip(folders, listed, strict=True) for id_ in ids)
    if not members:
        raise InputError(_nothing_found(root, parts))
    return Listing(
        root=root,
        ids=[id_ for id_, _, _ in members],
        labels_N=np.array([label for _, _, label in members], np.int64),
        split_N=np.array([split for _, split, _ in members], SPLIT_DTYPE),
        split_folders=sorted(parts),
        class_names=classes["train"],
    )


def list_images(root: Path, *below: str) -> list[list[str]]:
    """For each of ``below``, the POSIX paths relative to ``root`` of the image files under it, hidden ones left out.

    At any depth; folders are listed several at a time, level by level. A folder that a link leads back to counts
    once, at the path found first. InputError for a name that is not UTF-8, or a folder that cannot be listed.
    """
    found: list[list[str]] = [[] for _ in below]
    seen: list[set[tuple[int, int]]] = [set() for _ in below]
    level = [(position, start) for position, start in enumerate(below)]
    with ThreadPoolExecutor(_LISTING_THREADS, thread_name_prefix="list") as pool:
        while level:
            scanned = pool.map(_scan, [root / folder for _, folder in level])
            deeper: list[tuple[int, str]] = []
            for (position, folder), (number, folders, files) in zip(level, scanned, strict=True):
                if number in seen[position]:
                    continue
                seen[position].add(number)
                prefix = f"{folder}/" if folder else ""
                found[position] += [prefix + file for file in files]
                deeper += [(position, prefix + name) for name in folders]
            level = deeper
    return found


def _scan(folder: Path) -> tuple[tuple[int, int], list[str], list[str]]:
    """Which folder it is, links followed; the names of the folders in it, sorted, and of the images."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                    _check_name(entry.name, folder)
                    files.append(entry.name)
        status = os.stat(folder)
    except OSError as error:
        _cannot_list(error)
    return (status.st_dev, status.st_ino), sorted(folders), files


def _check_name(name: str, folder: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the name of {name!r} in {str(folder)!r} is not UTF-8; rename it") from error


def _parts(root: Path) -> dict[str, str]:
    """Split -> ``folder/``, if the first level is made of split names; empty if it is made of classes."""
    folders = _folders(root)
    known = [folder for folder in folders if folder.lower() in SPLIT_NAMES]
    parts = {SPLIT_NAMES[folder.lower()]: f"{folder}/" for folder in known}
    if len(parts) < len(known):
        raise InputError(f"{str(root)!r} has several folders for one split: {', '.join(known)}")
    if "train" not in parts:
        if known and len(known) == len(folders):
            raise InputError(f"{str(root)!r} has {', '.join(known)} but no train folder")
        return {}
    if len(known) < len(folders):
        others = [folder for folder in folders if folder not in known]
        raise InputError(
            f"{str(root)!r} mixes split folders ({', '.join(known)}) with others ({', '.join(others[:5])}); "
            "keep only train, val and test, or only class folders"
        )
    return parts


def _class_folders(root: Path, parts: dict[str, str]) -> dict[str, list[str]]:
    """Split -> its class folders; everything is train where there are no split folders."""
    classes = {split: _folders(root / prefix) for split, prefix in (parts or {"train": ""}).items()}
    lacking = {split: sorted(set(names) - set(classes["train"])) for split, names in classes.items()}
    for split, names in lacking.items():
        if names:
            raise InputError(f"{split} has classes that train lacks, which no probe can learn: {', '.join(names[:5])}")
    return classes


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        _cannot_list(error)


def _cannot_list(error: OSError) -> NoReturn:
    raise InputError(f"cannot list the folder {error.filename!r}: {error.strerror}") from error


def _nothing_found(root: Path, parts: dict[str, str]) -> str:
    where = root / parts["train"] if parts else root
    if list_images(root, "")[0]:
        return (
            f"{str(where)!r} has images but no class folders; put them in one folder a class, or take them without "
            "labels (--no-labels; in Python labels=False)"
        )
    return f"no images in {str(where)!r}; expected root/class/*.jpg or root/train/class/*.jpg ({_SUFFIXES_SHOWN})"


def _unlabelled(root: Path, name: str, cache: DigestCache | None) -> ImageSet:
    ids = sorted(list_images(root, "")[0])
    if not ids:
        raise InputError(f"no images in {str(root)!r} ({_SUFFIXES_SHOWN})")
    return build_image_set(
        name=name,
        ids=ids,
        labels_N=np.full(len(ids), -1, np.int64),
        split_N=np.full(len(ids), "test", SPLIT_DTYPE),
        class_names=(),
        metric="top1",
        source=FileSource(root, ids),
        provenance={"source": "folder", "root": str(root.resolve()), "labels": False},
        cache=cache,
    )
