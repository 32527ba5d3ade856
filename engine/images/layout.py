"""Interpret what lies in a folder: a pure function from its index to a reader, labels, splits and a sentence.

Nothing here touches a file: ``folder_index`` lists, and the readers in ``formats`` read what an Interpretation names.

Which reader
 1. Images, tars or Parquet files with images in them: the one that is there.
 2. A tar or Parquet file beside folders of images is the download they came from, and left out. Any other mixture is an
    error that names the choices (``--set reader=NAME``).
 3. Images with a table ``metadata.csv``, ``.jsonl`` or ``.parquet`` that has a column ``file_name`` and the label's are
    read by it (Hugging Face's ``imagefolder``).

Which class and split an image has
 4. A folder that holds one folder only, of folders without images beside them, is a wrapper, and is entered.
 5. Where every folder of the first level tells a split by one of its words (``train``, ``seg_train``, ``Testing``,
    ``val2017``; see ``splits_in_name``) and one tells ``train``, they are splits, and classes are a level below. Where
    only some do and ``train`` has class folders, it is an error that names the choices (``--set splits=false``).
 6. Otherwise the first level is the classes, and splits are drawn.
 7. A folder is a class if an image lies in it at any depth, or nothing does. Classes are ordered by name.
 8. An image in no class folder is kept without a label, in the split whose folder it is in.
 9. Folders of img2dataset's image files (``00012/000120034.jpg`` beside its ``.json``) are no classes: captions are no
    labels. Their images are kept without one.
10. Without labels every image is taken, at any depth.

What is left out
11. Everything else, counted by kind. Every file of the index is read or counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from penultimate.engine.images.folders.class_folders import (
    ClassFolders,
    find_class_folders,
    labelled_images,
    nothing_found,
)
from penultimate.engine.images.folders.file_kinds import COMPRESSED_TARS, IMAGE, PARQUET_IMAGES, TAR
from penultimate.engine.images.folders.folder_index import FolderIndex
from penultimate.engine.images.folders.folder_tree import FolderTree, last_of, parent_of
from penultimate.store.errors import InputError

Reader = Literal["images", "tars", "parquet", "table"]
"""Name of a reader of a folder; ``table`` is a table called ``metadata`` beside images."""

READERS: tuple[Reader, ...] = get_args(Reader)

REACHED_TWICE = "reached twice by links"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Interpretation:
    """The files of a folder that are to be read, their reader, and the labels and splits they have."""

    reader: Reader

    files: Sequence[str]
    """Paths of the files to read, sorted: images, tars, Parquet files or tables."""

    labels: Sequence[int] = ()
    """Position of each image's class in ``class_names``, -1 without one; empty for other readers."""

    splits: Sequence[str] = ()
    """Split that each image's folder gives it, or empty text; empty for other readers."""

    class_names: Sequence[str] = ()
    """Names of the classes, for images in class folders."""

    split_folders: Mapping[str, str]
    """Folder -> the split that it holds, or UNLABELLED."""

    left_out: Mapping[str, int]
    """Kind of file -> number of its files that are not read."""

    beside: Sequence[str] = ()
    """Images that lie in the folder, whether a table names them or not; for tables alone."""

    unlabelled: Sequence[str] = ()
    """Tables that lack the label column, where others have it."""

    names_file: str | None = None
    """Path of a ``classnames.txt``, whose line n is the class that the tars call n; for tars alone."""

    sentence: str
    """Description, for people, of how the folder is read."""


def interpret(
    index: FolderIndex,
    *,
    name: str,
    labels: bool = True,
    label_column: str = "label",
    reader: Reader | None = None,
    splits: bool = True,
) -> Interpretation:
    """Interpret the folder with this index by the rules above; error messages call it ``name``.

    ``labels=False`` takes every image unlabelled, ``reader`` decides in place of rules 1 to 3, ``splits=False`` takes
    the first level as classes whatever it is called. Raises InputError where there is nothing to read, where the rules
    leave a choice, and for a class of val or test that train lacks.
    """
    tree = FolderTree(index)
    tables = sorted(path for path, columns in index.columns.items() if "file_name" in columns)
    labelling = [path for path in tables if label_column in index.columns[path]] if labels else []
    chosen = reader or _choose_reader(tree, name, labelling)
    if chosen == "images":
        return _images(tree, name, labels=labels, splits=splits)
    files = tables if chosen == "table" else tree.of_kind(TAR if chosen == "tars" else PARQUET_IMAGES)
    if not files:
        raise InputError(f"{name!r} has nothing for --set reader={chosen}; there is {_kinds_there(tree)}")
    unlabelled = sorted(set(tables) - set(labelling)) if chosen == "table" and labelling else []
    return _other(tree, chosen, files, unlabelled)


def _choose_reader(tree: FolderTree, name: str, tables: Sequence[str]) -> Reader:
    """Choose the reader by rules 1 to 3."""
    shards: dict[Reader, list[str]] = {
        "tars": _not_leftover(tree, tree.of_kind(TAR)),
        "parquet": _not_leftover(tree, tree.of_kind(PARQUET_IMAGES)),
    }
    found: list[Reader] = [reader for reader, files in shards.items() if files]
    if tree.kinds[IMAGE]:
        found.insert(0, "images")
    if len(found) > 1:
        examples = {"images": tree.of_kind(IMAGE), **shards}
        raise InputError(
            f"{name!r} has several things to read: "
            + ", ".join(f"{len(examples[one]):,} {_WORDS[one]} such as {examples[one][0]}" for one in found)
            + f"; choose with --set reader={' or --set reader='.join(found)}, or move the others away"
        )
    if not found:
        raise InputError(_nothing(tree, name))
    return "table" if found == ["images"] and tables else found[0]


_WORDS: Mapping[Reader, str] = {
    "images": "image files",
    "tars": "tars",
    "parquet": "Parquet files with images in them",
    "table": "tables of images",
}


def _not_leftover(tree: FolderTree, files: Sequence[str]) -> list[str]:
    """Return the files that have no folders of images beside them (rule 2)."""
    beside: dict[str, bool] = {}
    for folder in map(parent_of, files):
        if folder not in beside:
            beside[folder] = any(child in tree.with_images for child in tree.children.get(folder, ()))
    return [path for path in files if not beside[parent_of(path)]]


def _nothing(tree: FolderTree, name: str) -> str:
    if compressed := [path for path, kind in tree.index.files if kind in COMPRESSED_TARS]:
        return (
            f"{name!r} has {len(compressed):,} compressed tars such as {compressed[0]} and no images; samples are read "
            "from the middle of a tar: decompress them first (gunzip, xz -d, zstd -d), or unpack them"
        )
    return nothing_found(tree, name)


def _images(tree: FolderTree, name: str, *, labels: bool, splits: bool) -> Interpretation:
    nothing = ClassFolders(base="", split_folders={}, class_names=(), assigned={})
    found = find_class_folders(tree, name, splits=splits) if labels else nothing
    files, label_of, split_of, twice = labelled_images(tree, found)
    if not files:
        raise InputError(_nothing(tree, name))
    left_out = tree.kinds.copy()
    del left_out[IMAGE]
    if twice:
        left_out[REACHED_TWICE] = twice
    return Interpretation(
        reader="images",
        files=files,
        labels=label_of,
        splits=split_of,
        class_names=found.class_names,
        split_folders=found.split_folders,
        left_out=dict(sorted(left_out.items())),
        sentence=_describe_class_folders(found) if labels else "image files, without labels",
    )


def _describe_class_folders(found: ClassFolders) -> str:
    """Describe for people how class folders are read."""
    where = f" in {found.base}/" if found.base else ""
    below = "one folder a class" if found.class_names else "img2dataset's files, whose captions are no labels"
    if not found.split_folders:
        return f"{below}{where}"
    roles = ", ".join(f"{last_of(folder)}/ is {split}" for folder, split in found.split_folders.items())
    classless = [
        last_of(folder)
        for folder in found.split_folders
        if not any(assigned.startswith(f"{folder}/") for assigned in found.assigned)
    ]
    without = f"; no class folders in {', '.join(classless)}" if classless and found.class_names else ""
    return f"split folders{where} ({roles}), {below} below{without}"


def _other(tree: FolderTree, reader: Reader, files: Sequence[str], unlabelled: Sequence[str]) -> Interpretation:
    read = set(files)
    left_out = Counter(kind for path, kind in tree.index.files if path not in read)
    if reader == "table":
        del left_out[IMAGE]  # the table says which of them are read, and the others are counted later
    names = [path for path, _ in tree.index.files if last_of(path) == "classnames.txt"] if reader == "tars" else []
    return Interpretation(
        reader=reader,
        files=files,
        split_folders={},
        left_out=dict(sorted(left_out.items())),
        beside=tree.of_kind(IMAGE) if reader == "table" else (),
        unlabelled=unlabelled,
        names_file=min(names, key=lambda path: (path.count("/"), path), default=None),
        sentence=f"{len(files):,} {_WORDS[reader]}" + (f" ({files[0]})" if len(files) == 1 else ""),
    )


def _kinds_there(tree: FolderTree) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in tree.kinds.most_common(5)) or "nothing"
