"""Write checkpoints whole or not at all, and read none of another recipe."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from penultimate.engine.train.recipe import Recipe
from penultimate.store.errors import InputError, StoreError

LAST, BEST = "last.pt", "best.pt"
"""File names: the checkpoint that a run resumes from, and that of the best val score so far."""

FORMAT = 1
"""Version of a checkpoint, raised whenever an older penultimate could misread a newer one."""


def save_checkpoint(path: Path, recipe: Recipe, state: Mapping[str, Any]) -> None:
    """Replace ``path`` by ``state``, durably. Raises StoreError if it cannot be written; what was there stays."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, "recipe": recipe.as_dict(), **state}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch wraps a failed write in a RuntimeError
        partial.unlink(missing_ok=True)
        kept = "the one before it is untouched" if path.exists() else "there is none before it"
        raise StoreError(
            f"checkpoint {path} could not be written ({_first_line(error)}); {kept}; make room and run again"
        ) from error


def load_checkpoint(path: Path, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, with tensors on ``device``.

    Raises InputError if it was written by a run of another recipe or cannot be read as a checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        version, theirs = state["format"], state["recipe"]
    except Exception as error:  # torch, pickle and zipfile each raise their own on a damaged file
        raise InputError(
            f"{path} cannot be read as a checkpoint ({_first_line(error)}); remove it to begin that run anew"
        ) from error
    if version != FORMAT:
        raise InputError(f"{path} is a checkpoint of format {version}, this penultimate reads {FORMAT}")
    differing = Recipe.from_dict(theirs).differences(recipe)
    if differing:
        named = ", ".join(f"{name} {there!r} instead of {here!r}" for name, (there, here) in differing.items())
        raise InputError(f"{path} is a checkpoint of another recipe: {named}; give another --out folder")
    return state


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"[:200] if str(error) else type(error).__name__
