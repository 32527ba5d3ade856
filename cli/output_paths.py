"""Check paths that a verb will write to before it computes what goes there."""

from pathlib import Path

from penultimate.store.errors import InputError


def folder_to_write(path: Path | None) -> Path | None:
    """Return the path of a folder that is there or can be made; raise InputError where a file is in its way."""
    if path is not None:
        _check_folder(path.absolute(), path)
    return path


def file_to_write(path: Path | None) -> Path | None:
    """Return the path of a file to write; raise InputError for a folder, and where a file is in its folder's way."""
    if path is not None and path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file in it")
    if path is not None:
        _check_folder(path.absolute().parent, path)
    return path


def figure_to_write(path: Path | None) -> Path | None:
    """Return the path of a figure to write; raise as ``file_to_write`` does, and for another suffix than these two."""
    if path is not None and path.suffix.lower() not in (".png", ".pdf"):
        raise InputError(f"cannot draw {path}: expected a name that ends in .png or .pdf")
    return file_to_write(path)


def _check_folder(folder: Path, path: Path) -> None:
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not nearest.is_dir():
        raise InputError(f"cannot write {path}: {nearest} is a file, not a folder")
