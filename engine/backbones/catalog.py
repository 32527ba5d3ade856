"""Which networks there are: patterns into names, and a row a name for listings."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from penultimate.engine.backbones.networks import HUB_PREFIXES, check_name, create_network
from penultimate.engine.backbones.weights import classifier_names
from penultimate.store.errors import InputError, UnknownNameError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRow:
    """What a listing says of one network."""

    name: str
    input_size: int | None
    """Pixels of the (square) input's height; None where timm keeps no configuration for the network."""

    feature_dim: int | None
    """None where the network was not built for the listing."""

    parameters: int | None
    """Without the classifier; None where the network was not built for the listing."""


def match_models(patterns: Iterable[str]) -> list[str]:
    """Names for exact names, globs over timm's names, and files that list either, in order, each once.

    A glob with a dot matches ``arch.tag`` of pretrained weights, one without matches architectures. A file is
    a path that exists and ends in ``.txt``: a name or glob a line, ``#`` begins a comment.

    Raises UnknownNameError for a name timm does not have, InputError for a glob or file that gives none.
    """
    names = [name for pattern in patterns for name in _matched(pattern)]
    return list(dict.fromkeys(names))


def describe(name: str) -> ModelRow:
    """Build ``name`` without memory (torch's meta device) and read off its sizes; well under a second."""
    with torch.device("meta"):
        model = create_network(name)
    classifier = classifier_names(model)
    return ModelRow(
        name=name,
        input_size=model.pretrained_cfg["input_size"][1],
        feature_dim=model.head_hidden_size,
        parameters=sum(p.numel() for key, p in model.named_parameters() if key not in classifier),
    )


def listed(name: str) -> ModelRow:
    """As ``describe``, from the registry alone: instant, without the sizes that need the network."""
    from timm.models import get_pretrained_cfg

    check_name(name)
    config = None if name.startswith(HUB_PREFIXES) else get_pretrained_cfg(name)
    return ModelRow(name=name, input_size=config.input_size[1] if config else None, feature_dim=None, parameters=None)


def _matched(pattern: str) -> list[str]:
    if pattern.endswith(".txt"):
        return _from_file(Path(pattern))
    if any(c in pattern for c in "*?[") and not pattern.startswith(HUB_PREFIXES):
        return _from_glob(pattern)
    check_name(pattern)
    return [pattern]


def _from_glob(pattern: str) -> list[str]:
    import timm

    names: list[str] = timm.list_models(pattern, pretrained="." in pattern)
    if not names:
        raise UnknownNameError("model like", pattern, timm.list_models())
    return names


def _from_file(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"list of models {path} cannot be read: {error}") from error
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    if not any(lines):
        raise InputError(f"list of models {path} is empty; expected a name or glob a line")
    return match_models(line for line in lines if line)
