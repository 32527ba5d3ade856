"""Find which folders are splits and which are classes, and the label and split of each image (rules 4 to 10).

The rules are those of ``layout``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penultimate.engine.images.folders.file_kinds import IMAGE, remedy_for
from penultimate.engine.images.folders.folder_tree import FolderTree, inherited_assignments, last_of, parent_of
from penultimate.engine.images.folders.img2dataset import are_shards
from penultimate.engine.images.image_set import SPLIT_NAMES
from penultimate.engine.images.splits import UNLABELLED, check_known, splits_in_name
from penultimate.store.errors import InputError, LabelsError

NO_LABEL = -1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassFolders:
    """The folders that are splits and classes."""

    base: str
    """Path of the folder inside all wrappers; ``""`` is the root."""

    split_folders: Mapping[str, str]
    """Folder -> the split that it holds, or UNLABELLED; empty where no folder is a split."""

    class_names: Sequence[str]
    """Names of the classes, sorted; none where the folders are img2dataset's shards."""

    assigned: Mapping[str, tuple[int, str]]
    """Folder -> label and split (or empty text) of the images in it, at any depth unless a folder below has its own."""


def labelled_images(tree: FolderTree, found: ClassFolders) -> tuple[list[str], list[int], list[str], int]:
    """Return paths, labels and splits of the images, and how many are left out because links lead to them twice."""
    inherited = inherited_assignments(tree.index, found.assigned, (NO_LABEL, ""))
    paths, labels, splits, twice = [], [], [], 0
    for path in tree.of_kind(IMAGE):
        if (own := inherited[parent_of(path)]) is None:
            twice += 1
            continue
        paths.append(path)
        labels.append(own[0])
        splits.append(own[1])
    return paths, labels, splits, twice


def find_class_folders(tree: FolderTree, name: str, *, splits: bool) -> ClassFolders:
    """Find the folders that are splits and classes; with ``splits=False`` no folder is a split.

    Raises InputError in the cases that ``layout.interpret`` names.
    """
    base = _unwrapped(tree, splits=splits)
    where = f"{name}/{base}" if base else name
    if found := _split_folders(tree, base, where) if splits else {}:
        return _in_splits(tree, base, found, where)
    classes = [] if tree.flat(base) else tree.classes(base)
    if are_shards(tree, classes):
        return ClassFolders(base=base, split_folders={}, class_names=(), assigned={})
    if not classes or not any(folder in tree.with_images for folder in classes):
        raise _no_classes(tree, base, where)
    names = sorted(map(last_of, classes))
    assigned = {folder: (names.index(last_of(folder)), "") for folder in classes}
    return ClassFolders(base=base, split_folders={}, class_names=names, assigned=assigned)


def _unwrapped(tree: FolderTree, *, splits: bool) -> str:
    """Return the folder inside all wrappers.

    A lone folder that is named like a split is a wrapper only if it holds the splits.
    """
    folder = ""
    while (inside := tree.wrapped(folder)) is not None:
        named_splits = {_split_in_name(child) for child in tree.classes(inside)}
        if splits and splits_in_name(last_of(inside)) and ("train" not in named_splits or None in named_splits):
            break
        folder = inside
    return folder


def _split_in_name(folder: str) -> str | None:
    """Return the one split that a folder's name tells, or None if it tells none or several."""
    splits = splits_in_name(last_of(folder))
    return next(iter(splits)) if len(splits) == 1 else None


def _split_folders(tree: FolderTree, base: str, where: str) -> dict[str, str]:
    """Return the split of each folder of the first level by rule 5; an empty dict if that level is classes."""
    folders = [folder for folder in tree.classes(base) if not tree.is_empty(folder) or _split_in_name(folder)]
    split_of = {folder: split for folder in folders if (split := _split_in_name(folder))}
    others = [folder for folder in folders if folder not in split_of]
    counts = Counter(split_of.values())
    names = ", ".join(map(last_of, split_of))
    if others:
        if _mixed(tree, split_of):
            raise InputError(
                f"{where!r} mixes split folders ({names}) with others ({', '.join(map(last_of, others[:5]))}); keep "
                "only train, val and test, or only class folders, or take all of them as classes (--set splits=false)"
            )
        return {}
    if len(split_of) > 1 and set(split_of.values()) == {"train"}:  # freight_train, bullet_train
        return {}
    if "train" not in counts:
        if not set(counts) - {UNLABELLED} or len(counts) < len(split_of):
            return {}
        raise InputError(
            f"{where!r} has {names} but no train folder; name one of them itself to have splits drawn from it, or take "
            "them as classes (--set splits=false)"
        )
    if twice := [split for split, count in counts.items() if count > 1 and split != UNLABELLED]:
        raise InputError(
            f"{where!r} has several folders for one split: {names}; keep one for {', '.join(twice)}, or take all of "
            "them as classes (--set splits=false)"
        )
    return split_of


def _mixed(tree: FolderTree, split_of: Mapping[str, str]) -> bool:
    """Return whether folders named like splits are splits although others lie beside them.

    They are if train has classes and is not the only split, or is called exactly so.
    """
    train = [folder for folder, split in split_of.items() if split == "train" and tree.classes(folder)]
    plain = any(last_of(folder).lower() in SPLIT_NAMES for folder in train)
    return bool(train) and (plain or len(set(split_of.values())) > 1)


def _in_splits(tree: FolderTree, base: str, splits: Mapping[str, str], where: str) -> ClassFolders:
    train = next(folder for folder, split in splits.items() if split == "train")
    in_train = _classes_of_split(tree, train, known=())
    if are_shards(tree, in_train):
        return _shards_in_splits(tree, base, splits, where)
    names = sorted(map(last_of, in_train))
    if not any(folder in tree.with_images for folder in in_train):
        raise _no_classes(tree, train, f"{where}/{last_of(train)}")
    label_of = {class_name: label for label, class_name in enumerate(names)}
    assigned = {}
    for folder, split in splits.items():
        classes = [] if split == UNLABELLED else _classes_of_split(tree, folder, known=names)
        check_known(map(last_of, classes), names, split)
        given = "" if split == UNLABELLED else split
        assigned[folder] = (NO_LABEL, given)
        assigned |= {child: (label_of[last_of(child)], given) for child in classes}
    return ClassFolders(base=base, split_folders=splits, class_names=names, assigned=assigned)


def _shards_in_splits(tree: FolderTree, base: str, splits: Mapping[str, str], where: str) -> ClassFolders:
    """Assign splits alone, if no other split has classes either."""
    for folder in splits:
        classes = _classes_of_split(tree, folder, known=())
        if classes and not are_shards(tree, classes):
            raise LabelsError(
                f"{where!r} has img2dataset's shards in train and classes such as {last_of(classes[0])!r} in "
                f"{last_of(folder)}",
                "put the images of train in one folder a class too",
            )
    assigned = {folder: (NO_LABEL, "" if split == UNLABELLED else split) for folder, split in splits.items()}
    return ClassFolders(base=base, split_folders=splits, class_names=(), assigned=assigned)


def _classes_of_split(tree: FolderTree, folder: str, *, known: Sequence[str]) -> list[str]:
    """Return the class folders of a split, inside its wrappers; none where its images lie in no class."""
    while (inside := tree.wrapped(folder)) is not None and last_of(inside) not in known:
        folder = inside
    classes = tree.classes(folder)
    return [] if tree.flat(folder) and last_of(classes[0]) not in known else classes


def _no_classes(tree: FolderTree, folder: str, where: str) -> InputError:
    """Return the error to raise where images lie in no class folders."""
    inside = [path for path in tree.with_images if not folder or path == folder or path.startswith(f"{folder}/")]
    if not inside:
        return InputError(nothing_found(tree, where))
    columns = {path: names for path, names in tree.index.columns.items() if "file_name" in names}
    hint = "".join(
        f" ({path} beside them has columns {', '.join(names)}: name the label's (--label-column))"
        for path, names in list(columns.items())[:1]
    )
    tables = [path for path, kind in tree.index.files if kind in (".csv", ".tsv", ".jsonl")]
    if tables and not hint:
        hint = f" (if {tables[0]} says what they show, name that file in place of the folder)"
    return LabelsError(f"{where!r} has images but no class folders", f"put them in one folder a class{hint}")


def nothing_found(tree: FolderTree, where: str) -> str:
    """Return the error message for a folder without anything to read."""
    there = ", ".join(f"{count:,} {kind}" for kind, count in tree.kinds.most_common(5))
    return (
        f"no images in {where!r}"
        + (f", only {there}{remedy_for(tree.kinds)}" if there else "")
        + "; expected root/class/*.jpg, "
        "root/train/class/*.jpg, WebDataset tars or Parquet files with images in them"
    )
