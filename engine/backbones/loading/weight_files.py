"""Read files of weights, and advise on those that hold something else."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from penultimate.store.errors import InputError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")
"""Suffixes of files that hold weights; timm's trainer writes ``.pth.tar``."""

RUN_CONFIG = "config.json"
"""Name of the file beside ``model.safetensors`` in a folder of timm's ``local-dir:`` layout, as of a training run."""

_HEAD_BYTES = 512


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a ``.safetensors`` or torch file; only tensors are unpickled.

    Raises InputError if the file has none.
    """
    from timm.models import load_state_dict

    check_weights_file(path)
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own on a damaged file
        raise InputError(f"{path} cannot be read as weights: {_reason(error)}") from error
    if not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise InputError(f"{path} does not hold a state dict: expected names with tensors")
    return dict(state)


def check_weights_file(path: Path) -> None:
    """Raise InputError if there is no such file, or one that is often mistaken for weights; only its head is read."""
    if not path.is_file():
        raise InputError(f"no weights file {path}; expected one of {', '.join(SUFFIXES)}")
    if (found := _what_else(path)) is not None:
        raise InputError(f"{path} holds no weights: it is {found}")


def run_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a folder of ``penultimate train``; raise InputError if it is none of timm's layout."""
    path = folder / RUN_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} has no {RUN_CONFIG}; expected the folder of a run, or a file of weights") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict) or "architecture" not in config:
        raise InputError(_not_timms_layout(folder, config if isinstance(config, dict) else {}))
    return config


def _not_timms_layout(folder: Path, config: Mapping[str, Any]) -> str:
    """Explain in one line that the ``config.json`` of a folder is none of timm's."""
    if "model_type" in config:
        kind = f"a model of transformers ({config['model_type']})"
    else:
        kind = "no model of timm's `local-dir:` layout"
    return (
        f"{folder} holds {kind}: its config.json has no `architecture`, and its tensors have other names than timm's; "
        "give timm's weights of that network, such as --model hf-hub:timm/NAME, a file with timm's names, or a "
        "function of your own that loads it (`penultimate models --template`)"
    )


def prefix_hint(names: Iterable[str], expected: Iterable[str]) -> str:
    """Advise where the names would fit without a common prefix, ``model.`` or ``encoder_q.``; else return no text."""
    wanted = set(expected)
    endings = [name[: -len(rest)] for name in names if name not in wanted for rest in _endings(name) if rest in wanted]
    if not endings:
        return ""
    prefix, count = max(Counter(endings).items(), key=lambda item: (item[1], item[0]))
    if 2 * count < len(wanted):
        return ""
    return (
        f"; {count} of its names fit without the prefix {prefix!r}: save it without, as torch.save("
        f"{{k.removeprefix({prefix!r}): v for k, v in state.items() if k.startswith({prefix!r})}}, 'weights.pth')"
    )


def _endings(name: str) -> Iterable[str]:
    """List the ends of a dotted name: ``b.c`` and ``c`` for ``a.b.c``."""
    parts = name.split(".")
    return (".".join(parts[first:]) for first in range(1, len(parts)))


def _what_else(path: Path) -> str | None:
    """Describe a file that is often mistaken for weights; return None for any other."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).lstrip()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        return "empty (0 bytes)"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git-LFS pointer to them; fetch the file itself with `git lfs pull`"
    if head[:15].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page, perhaps one that asks to log in or to confirm a download; download the file itself"
    return None


def _reason(error: Exception) -> str:
    """torch advises to unpickle whatever the file holds; that runs any code in it, so we do not repeat it."""
    text = " ".join(str(error).split())
    if "weights_only" in text or "WeightsUnpickler" in text:
        return (
            "it holds Python objects and not tensors alone, which could run any code; save its state dict where you "
            "trust it: torch.save(model.state_dict(), 'weights.pth')"
        )
    return text[:200]
