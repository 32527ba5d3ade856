"""Load images named one by one, by folders and by lists of paths, without labels and for extraction alone."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.folders import file_kinds
from penultimate.engine.images.folders.folder_index import index_folder
from penultimate.engine.images.formats.labels import Labelling
from penultimate.engine.images.formats.tables import LIST_SUFFIX, MANIFEST_SUFFIXES, Columns, read_rows
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.layout import interpret
from penultimate.engine.images.sources import FileSource
from penultimate.store.errors import InputError, LabelsError
from penultimate.store.objects.address import is_address


def load_files(paths: Sequence[Path], *, typed: Sequence[str], labels: bool, cache: DigestCache | None) -> ImageSet:
    """Load every image that ``paths`` name; ids are the paths as they were typed, each once.

    A folder gives every image in it, a table or list those in it that are there; other files, and tables that name no
    file, are counted in the provenance. Raises InputError with ``labels``, which nothing here has, and where there is
    no image.
    """
    if labels:
        raise _no_labels(paths, typed)
    left_out: Counter[str] = Counter()
    ids = sorted({os.path.normpath(path).replace(os.sep, "/") for one in paths for path in _images(one, left_out)})
    if not ids:
        there = ", ".join(f"{count:,} {kind}" for kind, count in sorted(left_out.items()))
        raise InputError(
            f"no images in {' '.join(map(str, typed[:3]))!r}, only {there}{file_kinds.remedy_for(left_out)}"
        )
    labelling = Labelling.unlabelled(len(ids))
    return build_image_set(
        name=_name(paths),
        ids=ids,
        labels_N=labelling.labels_N,
        split_N=labelling.split_N,
        class_names=labelling.class_names,
        metric="top1",
        source=FileSource(Path(), ids),
        provenance={
            "source": "files",
            "root": str(Path().resolve()),
            "labels": False,
            "layout": "image files, without labels",
            "left_out": dict(sorted(left_out.items())),
        },
        cache=cache,
    )


def _images(path: Path, left_out: Counter[str]) -> list[str]:
    """List the images that one name stands for, and add all other files to the counts of ``left_out``."""
    if path.is_dir():
        found = interpret(index_folder(path), name=str(path), labels=False, reader="images")
        left_out.update(found.left_out)
        return [f"{path}/{file}" for file in found.files]
    if path.suffix.lower() in (*MANIFEST_SUFFIXES, LIST_SUFFIX) and (listed := _listed(path)):
        return listed
    kind = file_kinds.kind_of_name(path.name)
    if kind in (file_kinds.HIDDEN, file_kinds.UNDECIDED):  # a hidden file was named on purpose
        kind = file_kinds.kind_of_file(path)
    if kind == file_kinds.IMAGE:
        return [str(path)]
    left_out[kind] += 1
    return []


def _listed(table: Path) -> list[str]:
    """List the paths in a table; none if not one of them leads to a file."""
    try:
        named = read_rows(table, Columns(label=None)).paths
    except InputError:
        return []
    if (address := next(filter(is_address, named), None)) is not None:
        raise InputError(f"{str(table)!r} names objects, such as {address!r}: give it alone, as a manifest")
    paths = [str(table.parent / path) for path in named]
    return paths if any(map(os.path.exists, paths)) else []


def _name(paths: Sequence[Path]) -> str:
    if len(paths) == 1:
        return paths[0].resolve().stem
    return Path(os.path.commonpath([path.resolve().parent for path in paths])).name or "images"


def _no_labels(paths: Sequence[Path], typed: Sequence[str]) -> LabelsError:
    what = f"{typed[0]!r}" if len(typed) == 1 else f"{len(typed):,} names from {typed[0]!r} to {typed[-1]!r}"
    folders = {str(path.parent) for path in paths}
    better = "name a folder with one folder a class, or a manifest"
    if len(folders) == 1 and all(path.is_dir() for path in paths):
        better = f"name the folder that holds them, {folders.pop()!r}, to have them as classes"
    return LabelsError(f"nothing says what {what} should show", better)
