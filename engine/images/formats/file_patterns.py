"""Find the files that a glob or a brace range names, and the names they have in ids."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path, PurePath

from penultimate.store.errors import InputError

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_FILES = 1_000_000


def named_files(spec: str) -> list[Path] | None:
    """List the files that ``shard-{0000..0009}.tar``, ``{a,b}.tar`` or a glob names; return None for a plain path.

    Raises InputError for a file of a brace range that is not there, and for a glob that matches nothing.
    """
    if not set(spec) & set("{*?["):
        return None
    if Path(spec).exists():  # a name may well hold a bracket
        return None
    files: list[Path] = []
    for name in expand_braces(spec):
        found = sorted(glob.glob(name, recursive=True))
        if not found:
            raise InputError(f"no file {name!r}" + (f", one of those that {spec!r} names" if name != spec else ""))
        files += map(Path, found)
    return list(dict.fromkeys(files))


def expand_braces(spec: str) -> Iterator[str]:
    """Expand braces as a shell does, without nesting.

    >>> list(expand_braces("{a,b}-{08..10}.tar"))
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    literal_and_braced = _BRACES.split(spec)
    choices = [_choices(part) if odd % 2 else [part] for odd, part in enumerate(literal_and_braced)]
    return map("".join, product(*choices))


def _choices(inside: str) -> Sequence[str]:
    if not (bounds := _RANGE.fullmatch(inside)):
        return inside.split(",")
    first, last = int(bounds[1]), int(bounds[2])
    if not first <= last < first + _MOST_FILES:
        raise InputError(f"expected an increasing range of at most {_MOST_FILES} files, got {{{inside}}}")
    width = len(bounds[1]) if bounds[1].startswith("0") else 1
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def shared_name(files: Sequence[Path]) -> str:
    """Return the common beginning of the files' names, such as ``pets`` for ``pets-000.tar`` and ``pets-001.tar``."""
    texts = [path.stem for path in files]
    common = os.path.commonprefix(texts).rstrip("0123456789-_. ")  # noqa: RUF071 (by character is what is meant)
    return common or files[0].resolve().parent.name


def files_in(folder: Path, suffix: str) -> list[Path]:
    """List the files of this suffix at any depth of ``folder``, sorted by path; hidden ones are left out."""
    found = (path for path in folder.rglob(f"*{suffix}") if path.is_file())
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def stems(files: Sequence[PurePath]) -> tuple[PurePath, list[str]]:
    """Return the deepest folder that all files lie below, and each one's path from there without its suffix.

    ``files`` are absolute paths. Raises InputError if two files would have the same name.
    """
    resolved = list(files)
    shared = type(files[0])(os.path.commonpath([path.parent for path in resolved]))
    names = [path.relative_to(shared).with_suffix("").as_posix() for path in resolved]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"several of the files below {str(shared)!r} are called {twice!r}")
    return shared, names
