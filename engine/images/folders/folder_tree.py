"""FolderTree tells for each folder of a FolderIndex whether images lie in it and whether it may be a class."""

from collections import Counter
from collections.abc import Iterable, Mapping

from penultimate.engine.images.folders.file_kinds import HIDDEN, IMAGE, SYSTEM, UNREADABLE_IMAGES
from penultimate.engine.images.folders.folder_index import FolderIndex, Identity
from penultimate.engine.images.splits import splits_in_name


class FolderTree:
    """The contents of each folder of an index; the root is ``""``."""

    def __init__(self, index: FolderIndex) -> None:
        self.index = index
        # One pass over what may be a million files; all else is made of its counts.
        counts = Counter((parent_of(path), kind) for path, kind in index.files)
        self.kinds: Counter[str] = Counter()
        for (_, kind), count in counts.items():
            self.kinds[kind] += count
        self.images_in = Counter({folder: count for (folder, kind), count in counts.items() if kind == IMAGE})
        """Folder -> number of images directly in it."""

        self.with_images = _with_ancestors(self.images_in)
        """Paths of the folders with an image in them at any depth."""

        unread = (folder for folder, kind in counts if kind in UNREADABLE_IMAGES)
        self._bearing = self.with_images | _with_ancestors(unread)
        self._occupied = _with_ancestors(folder for folder, kind in counts if kind not in (HIDDEN, SYSTEM))
        self.children: dict[str, list[str]] = {}
        for folder in index.folders:
            self.children.setdefault(parent_of(folder), []).append(folder)

    def of_kind(self, kind: str) -> list[str]:
        """Return the paths of the files of this kind, sorted."""
        return [path for path, its in self.index.files if its == kind]

    def classes(self, folder: str) -> list[str]:
        """Return the folders in ``folder`` that would be its classes: those with images in them, or with nothing.

        Images that no installed library reads count too: a class does not go away because a library is missing.
        """
        return [child for child in self.children.get(folder, ()) if child in self._bearing or self.is_empty(child)]

    def is_empty(self, folder: str) -> bool:
        """Return whether there is no file in a folder, at any depth."""
        return folder not in self._occupied

    def wrapped(self, folder: str) -> str | None:
        """Return the one folder in ``folder`` that holds possible classes and no images beside them, or None."""
        inside = self.classes(folder)
        wrapper = len(inside) == 1 and not self.images_in[inside[0]] and bool(self.classes(inside[0]))
        return inside[0] if wrapper else None

    def flat(self, folder: str) -> bool:
        """Return whether the only folder in ``folder`` holds images and is named like a split, or ``images``."""
        inside = self.classes(folder)
        if len(inside) != 1 or not self.images_in[inside[0]]:
            return False
        return bool(splits_in_name(last_of(inside[0]))) or last_of(inside[0]).lower() in _JUST_IMAGES


_JUST_IMAGES = {"images", "image", "imgs", "img", "jpegimages"}


def parent_of(path: str) -> str:
    """Return the folder that a relative path lies in."""
    return path.rpartition("/")[0]


def last_of(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition("/")[2]


def _with_ancestors(folders: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for folder in folders:
        while folder not in found:
            found.add(folder)
            folder = parent_of(folder)
    return found


def inherited_assignments(
    index: FolderIndex, assigned: Mapping[str, tuple[int, str]], default: tuple[int, str]
) -> dict[str, tuple[int, str] | None]:
    """Return for every folder what was assigned to it or to the nearest folder above it.

    If links lead twice to a folder below an assigned one, it counts once: the shortest path to it, the first of those
    in order, has the assignment, and every other has None.
    """
    inherited: dict[str, tuple[str, tuple[int, str]] | None] = {"": ("", assigned.get("", default))}
    seen: set[tuple[str, Identity]] = set()
    for folder in sorted(index.folders, key=lambda path: (path.count("/"), path)):
        above = inherited[parent_of(folder)]
        inherited[folder] = (folder, assigned[folder]) if folder in assigned else above
        if (own := inherited[folder]) is not None and folder in index.identities:
            reached = (own[0], index.identities[folder])
            inherited[folder] = None if reached in seen else own
            seen.add(reached)
    return {folder: None if own is None else own[1] for folder, own in inherited.items()}
