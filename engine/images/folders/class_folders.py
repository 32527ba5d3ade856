"""Rules 4 to 9 of ``layout``: which folder is a split, which a class, and what each image below them therefore has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penultimate.engine.images.folders.file_kinds import IMAGE
from penultimate.engine.images.folders.folder_tree import FolderTree, heirs, last_of, parent_of
from penultimate.engine.images.image_set import SPLIT_NAMES
from penultimate.engine.images.splits import UNLABELLED, check_known, splits_told
from penultimate.store.errors import InputError

NO_LABEL = -1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassFolders:
    """Where classes lie."""

    base: str
    """The folder inside all wrappers; ``""`` is the root."""

    split_folders: Mapping[str, str]
    """Folder -> the split it is, or UNLABELLED; empty where there are none."""

    class_names: Sequence[str]

    assigned: Mapping[str, tuple[int, str]]
    """Folder -> label and split (or empty) of the images in it, at any depth unless a folder below says otherwise."""


def labelled_images(tree: FolderTree, found: ClassFolders) -> tuple[list[str], list[int], list[str], int]:
    """Paths, labels and splits of the images, and how many are left out because links lead to them twice."""
    heir = heirs(tree.index, found.assigned, (NO_LABEL, ""))
    rows = [(path, heir[parent_of(path)]) for path, kind in tree.index.files if kind == IMAGE]
    kept = [(path, own) for path, own in rows if own is not None]
    return (
        [path for path, _ in kept],
        [label for _, (label, _) in kept],
        [split for _, (_, split) in kept],
        len(rows) - len(kept),
    )


def find_class_folders(tree: FolderTree, name: str, *, splits: bool) -> ClassFolders:
    """Raises InputError as ``layout.interpret`` says; ``splits=False``: no folder is a split."""
    base = _unwrapped(tree, splits=splits)
    where = f"{name}/{base}" if base else name
    if found := _split_folders(tree, base, where) if splits else {}:
        return _in_splits(tree, base, found, where)
    classes = [] if tree.flat(base) else tree.classes(base)
    if not classes or not any(folder in tree.with_images for folder in classes):
        raise InputError(_no_classes(tree, base, where))
    names = sorted(map(last_of, classes))
    assigned = {folder: (names.index(last_of(folder)), "") for folder in classes}
    return ClassFolders(base=base, split_folders={}, class_names=names, assigned=assigned)


def _unwrapped(tree: FolderTree, *, splits: bool) -> str:
    """The folder inside all wrappers; a lone split folder is none, unless it is called so and holds the splits."""
    folder = ""
    while (inside := tree.wrapped(folder)) is not None:
        told = {_told(child) for child in tree.classes(inside)}
        if splits and splits_told(last_of(inside)) and ("train" not in told or None in told):
            break
        folder = inside
    return folder


def _told(folder: str) -> str | None:
    """The one split that a folder's name tells."""
    told = splits_told(last_of(folder))
    return next(iter(told)) if len(told) == 1 else None


def _split_folders(tree: FolderTree, base: str, where: str) -> dict[str, str]:
    """Rule 5; empty where the first level is classes."""
    folders = [folder for folder in tree.classes(base) if not tree.is_empty(folder) or _told(folder)]
    told = {folder: split for folder in folders if (split := _told(folder))}
    others = [folder for folder in folders if folder not in told]
    counts = Counter(told.values())
    names = ", ".join(map(last_of, told))
    if others:
        if _mixed(tree, told):
            raise InputError(
                f"{where!r} mixes split folders ({names}) with others ({', '.join(map(last_of, others[:5]))}); keep "
                "only train, val and test, or only class folders, or take all of them as classes (--set splits=false)"
            )
        return {}
    if len(told) > 1 and set(told.values()) == {"train"}:  # freight_train, bullet_train
        return {}
    if "train" not in counts:
        if not set(counts) - {UNLABELLED} or len(counts) < len(told):
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
    return told


def _mixed(tree: FolderTree, told: Mapping[str, str]) -> bool:
    """Whether folders that tell splits beside others are splits all the same: train has classes, and is not alone."""
    train = [folder for folder, split in told.items() if split == "train" and tree.classes(folder)]
    plain = any(last_of(folder).lower() in SPLIT_NAMES for folder in train)
    return bool(train) and (plain or len(set(told.values())) > 1)


def _in_splits(tree: FolderTree, base: str, splits: Mapping[str, str], where: str) -> ClassFolders:
    train = next(folder for folder, split in splits.items() if split == "train")
    names = sorted(map(last_of, _classes_of_split(tree, train, known=())))
    if not any(folder in tree.with_images for folder in _classes_of_split(tree, train, known=())):
        raise InputError(_no_classes(tree, train, f"{where}/{last_of(train)}"))
    label_of = {class_name: label for label, class_name in enumerate(names)}
    assigned = {}
    for folder, split in splits.items():
        classes = [] if split == UNLABELLED else _classes_of_split(tree, folder, known=names)
        check_known(map(last_of, classes), names, split)
        given = "" if split == UNLABELLED else split
        assigned[folder] = (NO_LABEL, given)
        assigned |= {child: (label_of[last_of(child)], given) for child in classes}
    return ClassFolders(base=base, split_folders=splits, class_names=names, assigned=assigned)


def _classes_of_split(tree: FolderTree, folder: str, *, known: Sequence[str]) -> list[str]:
    """Class folders of a split, inside its wrappers; none where its images lie in no class."""
    while (inside := tree.wrapped(folder)) is not None and last_of(inside) not in known:
        folder = inside
    classes = tree.classes(folder)
    return [] if tree.flat(folder) and last_of(classes[0]) not in known else classes


def _no_classes(tree: FolderTree, folder: str, where: str) -> str:
    inside = [path for path in tree.with_images if not folder or path == folder or path.startswith(f"{folder}/")]
    if not inside:
        return nothing_found(tree, where)
    columns = {path: names for path, names in tree.index.columns.items() if "file_name" in names}
    hint = "".join(
        f"; {path} beside them has columns {', '.join(names)}: name the label's (--label-column)"
        for path, names in list(columns.items())[:1]
    )
    tables = [path for path, kind in tree.index.files if kind in (".csv", ".tsv", ".jsonl")]
    if tables and not hint:
        hint = f"; if {tables[0]} says what they show, name that file in place of the folder"
    return (
        f"{where!r} has images but no class folders; put them in one folder a class, or take them without labels "
        f"(--no-labels; in Python labels=False){hint}"
    )


def nothing_found(tree: FolderTree, where: str) -> str:
    """What to say of a folder without anything to read."""
    there = ", ".join(f"{count:,} {kind}" for kind, count in tree.kinds.most_common(5))
    return (
        f"no images in {where!r}" + (f", only {there}" if there else "") + "; expected root/class/*.jpg, "
        "root/train/class/*.jpg, WebDataset tars or Parquet files with images in them"
    )
