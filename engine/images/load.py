"""Load images by what people type: a folder, a manifest, tars, tables, arrays, single images or a dataset."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from penultimate.engine.images.datasets import digits
from penultimate.engine.images.datasets.paper12 import PAPER12, download_dataset, load_paper_dataset
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.folders.file_kinds import COMPRESSED_TARS, IMAGE_SUFFIXES
from penultimate.engine.images.folders.folder_index import index_folder
from penultimate.engine.images.formats.arrays import ARRAY_SUFFIXES, load_arrays
from penultimate.engine.images.formats.file_patterns import named_files, shared_name
from penultimate.engine.images.formats.folder import read_folder, root_name
from penultimate.engine.images.formats.labels import RandomSplit
from penultimate.engine.images.formats.manifest import load_image_folder, load_manifest
from penultimate.engine.images.formats.parquet import load_parquet_images
from penultimate.engine.images.formats.parquet_tables import image_column
from penultimate.engine.images.formats.remote_tars import remote_tars
from penultimate.engine.images.formats.single_files import load_files
from penultimate.engine.images.formats.tables import DEFAULT_COLUMNS, LIST_SUFFIX, MANIFEST_SUFFIXES, Columns
from penultimate.engine.images.formats.webdataset import load_webdataset
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.layout import Interpretation, Reader, interpret
from penultimate.engine.images.options import ImageOptions
from penultimate.store.errors import InputError, LabelsError, UnknownNameError
from penultimate.store.objects.address import is_address

DATASETS = (*PAPER12, digits.NAME)
"""Names of the datasets that can be loaded by name."""

_FILE_SUFFIXES = {*MANIFEST_SUFFIXES, LIST_SUFFIX, ".tar", *ARRAY_SUFFIXES, *IMAGE_SUFFIXES}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    """The options of ``load_images`` that every reader needs."""

    labels: bool
    columns: Columns
    reader: Reader | None
    splits: bool
    random_split: RandomSplit
    cache: DigestCache | None


def load_images(
    spec: str | Path | Sequence[str | Path],
    *,
    root: Path | None = None,
    download: bool = False,
    seed: int = 0,
    labels: bool = True,
    cache: DigestCache | None = None,
    **options: Any,
) -> ImageSet:
    """List a set of images: their ids, labels and splits. No image is read before its pixels are needed.

    Listing reads folders, tables, the headers of tars and the metadata of Parquet files; the arrays of a ``.npz`` and
    CIFAR's pickles are loaded as a whole. ``ImageSet.digest`` depends on what the images contain: it reads each one
    that ``cache`` does not remember and that was not read before, as by decoding. A later read that finds other bytes
    raises VanishedImageError.

    Parameters
    ----------
    spec
        A folder (``engine.images.layout`` lists the rules), a CSV, TSV, JSON Lines or Parquet manifest, or WebDataset
        tars (a tar, a glob or ``shard-{0000..0009}.tar``), both also at an ``s3://``, ``gs://`` or ``az://`` address,
        Parquet files with the images in them, arrays in a ``.npz`` or ``.npy``, or the name of a dataset. With
        ``labels=False`` also images, lists of them in a ``.txt``, and any number of all these.
    root
        The folder that holds a dataset given by name. ``digits`` are written there, or without it into the cache
        folder; a folder ``digits`` in the working folder comes first.
    download
        Fetch a dataset given by name into ``root`` first, where its publisher serves it.
    seed
        Seed of splits that are not given.
    labels
        False takes every image, unlabelled.
    cache
        Remembers what files contained, by path, size and times, so that they need not be read for the digest. What is
        read is put into it by ``ImageSet.digest``, or by ``ImageSet.contents.save``.
    **options
        Any field of ``ImageOptions``: ``val_fraction`` and ``test_fraction`` (where no splits are given),
        ``label_column``, ``path_column``, ``multi_label``, ``reader``, ``splits``.

    Returns
    -------
    ImageSet
        ``ids_N`` in a fixed order, ``labels_N`` (N,) int64 or (N, K) uint8, ``split_N``, ``class_names``, and
        ``digest``, of all these with the contents of the files.

    Raises
    ------
    UnknownNameError
        If there is no dataset of that name; the message gives the nearest ones.
    InputError
        If the images cannot be found, read or understood, or an option does not go with them; LabelsError where it
        is their labels alone.

    Examples
    --------
    >>> import penultimate
    >>> images = penultimate.load_images(getfixture("photos"), test_fraction=0.25)
    >>> len(images), list(images.class_names), str(images.ids_N[0])
    (24, ['cat', 'dog', 'owl'], 'cat/00.jpg')
    """
    specs = [str(spec)] if isinstance(spec, str | Path) else [str(each) for each in spec]
    _check_texts(specs)
    image_options = ImageOptions.of(options)
    label_column = image_options.label_column if labels else None
    how = _Options(
        labels=labels,
        columns=Columns(path=image_options.path_column, label=label_column, multi_label=image_options.multi_label),
        reader=image_options.reader,
        splits=image_options.splits,
        random_split=RandomSplit(
            val_fraction=image_options.val_fraction, test_fraction=image_options.test_fraction, seed=seed
        ),
        cache=cache,
    )
    if len(specs) == 1 and (specs[0] in DATASETS or root is not None):
        named = _load_dataset(specs[0], root, download=download, seed=seed, cache=cache)
        if named is not None:
            return named
    elif root is not None:
        raise InputError(f"--root goes with one dataset, got {len(specs)} names")
    return _load_one(specs[0], how) if len(specs) == 1 else _load_files(specs, how)


def load_labelled_images(spec: str | Path | Sequence[str | Path], **options: Any) -> ImageSet:
    """Return what ``load_images`` does, for training and what else cannot do without labels.

    Raises InputError in place of LabelsError, whose message advises to do without.
    """
    try:
        return load_images(spec, **options)
    except LabelsError as error:
        raise error.where_labels_are_needed() from error


def _check_texts(specs: Sequence[str]) -> None:
    if not specs or "" in specs:
        raise InputError("no images named: give a folder, a CSV or Parquet manifest, tars, arrays or a dataset")
    for spec in specs:
        try:
            spec.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the name {spec!r} is not UTF-8; rename it") from error


def _load_dataset(
    name: str, root: Path | None, *, download: bool, seed: int, cache: DigestCache | None
) -> ImageSet | None:
    """Load a dataset by name; return None if the name is that of the digits and of a folder here."""
    here = Path(name).exists()
    if name == digits.NAME:
        return None if root is None and here else digits.load_digits(root, seed=seed, cache=cache)
    if name not in DATASETS:
        raise UnknownNameError("dataset", name, DATASETS)
    if root is None:
        also = f", or ./{name} for the folder of that name" if here else ""
        raise InputError(f"the dataset {name!r} needs --root, the folder that holds it{also}")
    if download:
        download_dataset(name, root)
    return load_paper_dataset(name, root, seed=seed, cache=cache)


def _load_one(spec: str, options: _Options) -> ImageSet:
    path = Path(spec)
    if is_address(spec):
        _only_for_folders(spec, options)
        if PurePosixPath(spec.partition("?")[0]).suffix.lower() in (*MANIFEST_SUFFIXES, LIST_SUFFIX):
            return _load_manifest(spec, options)
        name, tars = remote_tars(spec)
        return load_webdataset(
            tars,
            name=name,
            columns=options.columns,
            labels=options.labels,
            random_split=options.random_split,
            cache=options.cache,
        )
    if path.is_dir():
        found = interpret(
            index_folder(path),
            name=spec,
            labels=options.labels,
            label_column=options.columns.label or "label",
            reader=options.reader,
            splits=options.splits,
        )
        return _load_folder(path, found, options)
    if named_files(spec) is None and not path.exists():
        if set(spec) & {"/", "\\", "~"} or path.suffix.lower() in _FILE_SUFFIXES:
            raise InputError(f"no folder or manifest at {spec!r}")
        raise UnknownNameError("folder, manifest or dataset", spec, DATASETS)
    return _load_files([spec], options)


def _load_folder(root: Path, found: Interpretation, options: _Options) -> ImageSet:
    name, labels, columns, random_split, cache = (
        root_name(root),
        options.labels,
        options.columns,
        options.random_split,
        options.cache,
    )
    if found.reader == "table":
        return load_image_folder(root, found, name=name, columns=columns, random_split=random_split, cache=cache)
    _no_paths(f"the folder {str(root)!r}", columns)
    if found.reader == "images":
        _one_label(f"a sample of {str(root)!r}", columns)
        _no_label_column(f"the folder {str(root)!r}", columns)
        return read_folder(root, found, labels=labels, random_split=random_split, cache=cache)
    files = [root / file for file in found.files]
    if found.reader == "tars":
        names = None if found.names_file is None else _class_names(root / found.names_file)
        return load_webdataset(
            files,
            name=name,
            columns=columns,
            labels=labels,
            names=names,
            random_split=random_split,
            left_out=found.left_out,
            cache=cache,
        )
    return load_parquet_images(
        files,
        name=name,
        labels=labels,
        columns=columns,
        random_split=random_split,
        left_out=found.left_out,
        cache=cache,
    )


def _load_files(specs: Sequence[str], options: _Options) -> ImageSet:
    """Load one or several files, and any folders named together with them."""
    paths = list(dict.fromkeys(path for spec in specs for path in _named(spec)))
    if len(paths) == 1 and paths[0].is_dir():  # by a glob
        return _load_one(str(paths[0]), options)
    _only_for_folders(specs[0], options)
    name = paths[0].stem if len(paths) == 1 else shared_name(paths)
    labels, columns, random_split, cache = options.labels, options.columns, options.random_split, options.cache
    suffixes = {path.suffix.lower() if path.is_file() else "/" for path in paths}
    if suffixes == {".tar"}:
        return load_webdataset(paths, name=name, columns=columns, labels=labels, random_split=random_split, cache=cache)
    if suffixes == {".parquet"} and (len(paths) > 1 or image_column(paths[0]) is not None):
        return load_parquet_images(
            paths, name=name, labels=labels, columns=columns, random_split=random_split, cache=cache
        )
    if len(paths) == 1 and suffixes <= {*ARRAY_SUFFIXES}:
        _no_label_column(repr(specs[0]), columns)
        return load_arrays(paths[0], labels=labels, multi_label=columns.multi_label, random_split=random_split)
    if len(paths) == 1 and suffixes <= {*MANIFEST_SUFFIXES, LIST_SUFFIX}:
        return _load_manifest(paths[0], options)
    if compressed := next((path for path in paths if path.name.lower().endswith(COMPRESSED_TARS)), None):
        raise InputError(
            f"{str(compressed)!r} is a compressed tar; samples are read from the middle of a tar: decompress it first "
            "(gunzip, xz -d, zstd -d), or unpack it"
        )
    return load_files(paths, typed=specs, labels=labels, cache=cache)


def _load_manifest(manifest: Path | str, options: _Options) -> ImageSet:
    return load_manifest(
        manifest,
        labels=options.labels,
        path_column=options.columns.path,
        label_column=options.columns.label or "label",
        multi_label=options.columns.multi_label,
        cache=options.cache,
        **asdict(options.random_split),
    )


def _named(spec: str) -> list[Path]:
    if is_address(spec):
        raise InputError(f"{spec!r} is an address; name it alone, or several tars as set-{{000..009}}.tar")
    if (found := named_files(spec)) is not None:
        return found
    if not Path(spec).exists():
        raise InputError(f"no file or folder {spec!r}")
    return [Path(spec)]


def _class_names(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the class names in {str(path)!r}: {error}") from error


def _only_for_folders(spec: str, options: _Options) -> None:
    if options.reader is not None or not options.splits:
        option = "--set reader=NAME" if options.reader is not None else "--set splits=false"
        raise InputError(f"{option} says how to read a folder, and {spec!r} is none")


def _no_label_column(what: str, columns: Columns) -> None:
    if columns.label not in (None, DEFAULT_COLUMNS.label):
        raise InputError(f"--label-column goes with tables, tars and Parquet files, and {what} has no columns")


def _one_label(what: str, columns: Columns) -> None:
    if columns.multi_label and columns.label is not None:
        raise InputError(
            f"{what} has one label, its folder's; --multi-label goes with tables, tars, Parquet files and arrays"
        )


def _no_paths(what: str, columns: Columns) -> None:
    if columns.path is not None:
        raise InputError(f"--set path_column=NAME goes with tables, and {what} is read by none")
