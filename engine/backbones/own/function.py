"""Find the function that a name ``package.module:function`` stands for, and call it."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import reduce
from importlib import import_module
from types import ModuleType
from typing import Any

from penultimate.store.errors import InputError, UnavailableError, UnknownNameError

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
"""Prefixes of names that are repositories of the Hugging Face hub with a timm ``config.json``."""

_GRAMMAR = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"


def is_own(name: str) -> bool:
    """Return whether ``name`` is to be ``package.module:function``: it has a colon, and is nothing of the hub's."""
    return ":" in name and "://" not in name and not name.startswith(HUB_PREFIXES)


def find_function(name: str) -> Callable[[], Any]:
    """Import the module of ``package.module:function``, which may lie in the current folder; return the function.

    The current folder is looked at last, so that no file of the user's takes the place of an installed package.
    Raises InputError for a name of another form or a module that raises, UnknownNameError for a function that is not
    there.
    """
    if not re.fullmatch(_GRAMMAR, name) or name.partition(":")[0].endswith(".py"):
        raise InputError(
            f"{name!r} is no network: expected `package.module:function`, dots for folders and without .py, as in "
            f"my_networks:resnet18 for a function of ./my_networks.py{_meant(name)}"
        )
    module_name, _, path = name.partition(":")
    module = _imported(module_name)
    try:
        found: Any = reduce(getattr, path.split("."), module)
    except AttributeError:
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownNameError(f"function of {_file(module) or module_name}", path, own) from None
    if not callable(found):
        raise InputError(f"{name} is of type {type(found).__name__}; expected a function that returns a network")
    function: Callable[[], Any] = found
    return function


@contextmanager
def telling_whose(name: str, what: str, *, instead: str = "") -> Iterator[None]:
    """Within the context, turn what the user's own code raises into an InputError of one line, with file and line.

    What it prints goes to stderr, since stdout is for data.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # anything at all may come out of somebody else's code
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{name} {what}: {reason}{_where(name, error)}{instead}") from error


def _imported(module_name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        with telling_whose(module_name, "cannot be imported"):
            return import_module(module_name)
    except InputError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            raise
        raise UnavailableError(
            f"there is no module {missing!r} in {here} or among the installed packages; give `package.module:function` "
            "of a file that Python can import from there"
        ) from error


def _where(name: str, error: Exception) -> str:
    """Tell the last line of the user's own module that the error came through."""
    module = sys.modules.get(name.partition(":")[0])
    file = _file(module) if module is not None else None
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if file and frame.filename == file]
    return f" ({file}, line {lines[-1]})" if lines else ""


def _file(module: ModuleType) -> str | None:
    return getattr(module, "__file__", None)


def _meant(name: str) -> str:
    """Suggest the name of a function whose file was given by its path."""
    path, _, function = name.rpartition(":")
    module = re.sub(r"[/\\]+", ".", path.removesuffix(".py")).strip(".")
    meant = f"{module}:{function}"
    return f"; did you mean {meant}?" if meant != name and re.fullmatch(_GRAMMAR, meant) else ""
