"""Where images come from by what people type: a folder, a manifest, tars, tables, arrays or the name of a dataset."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from penultimate.engine.images.datasets import digits
from penultimate.engine.images.datasets.paper12 import PAPER12, download_dataset, load_paper_dataset
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.formats.arrays import ARRAY_SUFFIXES, load_arrays
from penultimate.engine.images.formats.file_patterns import files_in, named_files, shared_name
from penultimate.engine.images.formats.folder import IMAGE_SUFFIXES, load_folder
from penultimate.engine.images.formats.labels import Draw
from penultimate.engine.images.formats.manifest import MANIFEST_SUFFIXES, load_manifest
from penultimate.engine.images.formats.parquet import image_column, load_parquet_images
from penultimate.engine.images.formats.tars import remote_tars
from penultimate.engine.images.formats.webdataset import load_webdataset
from penultimate.engine.images.image_set import ImageSet
from penultimate.store.errors import InputError, UnknownNameError
from penultimate.store.objects.address import is_address

DATASETS = (*PAPER12, digits.NAME)
"""Datasets that are taken by name."""


def load_images(
    spec: str,
    *,
    root: Path | None = None,
    download: bool = False,
    seed: int = 0,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    labels: bool = True,
    label_column: str = "label",
    multi_label: bool = False,
    cache: DigestCache | None = None,
) -> ImageSet:
    """The images that ``spec`` names.

    That is a folder of images, a CSV or Parquet manifest, WebDataset tars (a tar, a folder of them, a glob or
    ``shard-{0000..0009}.tar``), also at an ``s3://``, ``gs://`` or ``az://`` address, Parquet files with the images
    in them (those of a folder likewise), arrays in a ``.npz`` or ``.npy``, or a dataset by name with its ``root``,
    into which ``download`` fetches it first where its publisher serves it
    (``digits`` are written there, or without a root into the cache folder; a folder ``digits`` here comes first).
    ``val_fraction`` and ``test_fraction`` apply where no splits are given, ``labels`` to all but manifests,
    ``label_column`` to tables and tars, ``multi_label`` to manifests. ``cache`` remembers what files contained.
    Raises UnknownNameError for an unknown dataset and InputError for anything else that cannot be loaded.
    """
    if not spec:
        raise InputError("no images named: give a folder, a CSV or Parquet manifest, tars, arrays or a dataset")
    path = Path(spec)
    if spec == digits.NAME and (root is not None or not path.exists()):
        return digits.load_digits(root, seed=seed, cache=cache)
    if root is not None:
        if spec not in DATASETS:
            raise UnknownNameError("dataset", spec, DATASETS)
        if download:
            download_dataset(spec, root)
        return load_paper_dataset(spec, root, seed=seed, cache=cache)
    if spec in DATASETS:
        also = f", or ./{spec} for the folder of that name" if path.exists() else ""
        raise InputError(f"the dataset {spec!r} needs --root, the folder that holds it{also}")
    if is_address(spec):
        name, tars = remote_tars(spec)
        draw = Draw(val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
        return load_webdataset(tars, name=name, labels=labels, label_column=label_column, draw=draw, cache=cache)
    draw = Draw(val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    if (sharded := _sharded(spec)) is not None:
        name, load, files = sharded
        return load(files, name=name, labels=labels, label_column=label_column, draw=draw, cache=cache)
    if path.is_file() and path.suffix.lower() in ARRAY_SUFFIXES:
        return load_arrays(path, labels=labels, draw=draw)
    if path.is_dir():
        return load_folder(path, labels=labels, cache=cache, **asdict(draw))
    if path.is_file():
        return load_manifest(path, label_column=label_column, multi_label=multi_label, cache=cache, **asdict(draw))
    if set(spec) & {"/", "\\", "~"} or path.suffix.lower() in (*MANIFEST_SUFFIXES, ".tar", *ARRAY_SUFFIXES):
        raise InputError(f"no folder or manifest at {spec!r}")
    raise UnknownNameError("folder, manifest or dataset", spec, DATASETS)


class _ShardLoader(Protocol):
    def __call__(
        self,
        files: Sequence[Path],
        /,
        *,
        name: str,
        labels: bool,
        label_column: str,
        draw: Draw,
        cache: DigestCache | None,
    ) -> ImageSet: ...


_SHARDS: dict[str, _ShardLoader] = {".tar": load_webdataset, ".parquet": load_parquet_images}
"""Suffix -> loader of one or several such files."""


def _sharded(spec: str) -> tuple[str, _ShardLoader, list[Path]] | None:
    """Name, loader and files of tars, or of Parquet files with images in them; None if ``spec`` is something else."""
    path = Path(spec)
    if path.is_dir():
        kind = _shards_in(path)
        return (path.resolve().name, _SHARDS[kind], files_in(path, kind)) if kind else None
    files = named_files(spec)
    name = path.stem if files is None else shared_name(files)
    files = files or ([path] if path.is_file() else [])
    kinds = {file.suffix.lower() for file in files}
    if kinds == {".parquet"} and len(files) == 1 and image_column(files[0]) is None:
        return None  # a manifest
    if len(kinds) == 1 and kinds <= _SHARDS.keys():
        return name, _SHARDS[kinds.pop()], files
    if len(files) > 1:
        raise InputError(f"{spec!r} names {len(files)} files ending in {sorted(kinds)}; expected .tar or .parquet")
    return None


def _shards_in(folder: Path) -> str | None:
    """``.tar`` or ``.parquet`` if ``folder`` is made of such files, None where images lie in it; only peeks."""
    seen: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            file = _first_file(entry.path) if entry.is_dir() else entry.name
            seen.add(os.path.splitext(file)[1].lower())
            if seen & IMAGE_SUFFIXES:
                return None
    return next((kind for kind in _SHARDS if kind in seen), None)


def _first_file(folder: str) -> str:
    with os.scandir(folder) as entries:
        return next((entry.name for entry in entries if entry.is_file()), "")
