"""Find networks by patterns and sets of names, and describe each in a row of a listing."""

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from penultimate.engine.backbones.architectures.networks import (
    OUR_CONFIGS,
    check_name,
    create_network,
    full_name,
    unknown_model,
)
from penultimate.engine.backbones.classifier import classifier_names, is_token_encoder, refuse_token_encoder
from penultimate.engine.backbones.imagenet import Accuracy
from penultimate.engine.backbones.kornblith16 import KORNBLITH16
from penultimate.engine.backbones.own.function import HUB_PREFIXES, is_own
from penultimate.engine.backbones.own.load import load_own
from penultimate.engine.backbones.readouts.network_readouts import readouts_of
from penultimate.engine.backbones.readouts.readout import chosen
from penultimate.store.errors import InputError, UnknownNameError
from penultimate.store.key import PENULTIMATE

SETS: dict[str, tuple[str, ...]] = {"kornblith16": tuple(network.model for network in KORNBLITH16)}
"""Name of a set -> its networks with their default weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRow:
    """One network in a listing."""

    model: str
    """Name of the network as the user gave it."""

    weights: str | None
    """``arch.tag`` of the weights that the name stands for; None where none are published."""

    input_size: int | None
    """Height of the (square) input in pixels; None where timm keeps no configuration for the network."""

    feature_dim: int | None
    """Number of penultimate features; None where the network was not built for the listing, and for encoders of
    tokens."""

    readouts: Mapping[str, int] | None
    """Readout -> number of its features; None where ``feature_dim`` is."""

    parameters: int | None
    """Number of parameters without the classifier; None where the network was not built for the listing."""

    imagenet_top1: float | None
    """ImageNet top-1 of those weights as a fraction; None where it is not in the table."""

    imagenet_source: str | None
    """Publication in which that accuracy is printed."""

    network: str | None
    """Name of the network in the paper, if it is one of its sixteen."""

    penultimate: str | None
    """Module whose spatial mean is the feature, for the paper's sixteen networks."""

    switches: tuple[str, ...]
    """Training settings studied by the paper that this network has; empty for networks that are not in the paper."""

    warnings: tuple[str, ...] = ()
    """Doubts about a network of the user's, for people."""


def match_models(patterns: Iterable[str]) -> list[str]:
    """Return the networks that exact names, globs, sets, and files of any of these name, in order and each once.

    A glob with a dot matches ``arch.tag`` of published weights, one without matches architectures; ``model_set`` reads
    sets and files.

    Raises UnknownNameError for a name that is not known, InputError for a file that gives none.
    """
    names = [name for pattern in patterns for name in _matched(pattern)]
    return list(dict.fromkeys(names))


def model_set(name: str) -> list[str]:
    """Return the networks of one of SETS, or of a user's file.

    A file is ``.txt`` (a name or glob a line, ``#`` begins a comment), ``.csv`` (column ``model``) or ``.yaml``
    (a list, or a list under ``models``). Raises UnknownNameError or InputError.
    """
    if name in SETS:
        return list(SETS[name])
    path = Path(name)
    if path.suffix not in _READERS:
        raise UnknownNameError("set of networks", name, [*SETS, *(f"FILE{suffix}" for suffix in _READERS)])
    return match_models(_listed_in(path))


def describe(name: str, imagenet: Mapping[str, Accuracy]) -> ModelRow:
    """Describe a network with its sizes; it is built on torch's meta device, without memory, in well under a second.

    A network of the user's is loaded and checked.
    """
    if is_own(name):
        return _described_own(name)
    with torch.device("meta"):
        model = create_network(name)
    classifier = classifier_names(model)
    return _row(
        name,
        full_name(name, model),
        imagenet,
        input_size=model.pretrained_cfg["input_size"][1],
        readouts=None if is_token_encoder(model) else {each.name: each.dim for each in readouts_of(model).values()},
        parameters=sum(p.numel() for key, p in model.named_parameters() if key not in classifier),
    )


def refuse_if_no_backbone(name: str, readouts: Iterable[str] = (PENULTIMATE,)) -> None:
    """Raise InputError for a network that gives no one vector an image, or has not one of ``readouts``.

    It does so before weights or images are looked at.

    It is built on torch's meta device for that; a repository of the hub is not, and a network of the user's is checked
    when it is loaded.
    """
    if not is_own(name) and not name.startswith(HUB_PREFIXES):
        with torch.device("meta"):
            model = create_network(name)
        refuse_token_encoder(model, name)
        chosen(readouts_of(model), readouts, network=name)


def refuse_to_train(name: str) -> None:
    """Raise InputError for a network that cannot be trained, before weights or images are looked at."""
    if is_own(name):
        raise InputError(
            f"{name} is a network of your own, and those are not trained: a trained network is kept as timm keeps its "
            "own; extract its features and probe them, or train a network of timm"
        )
    refuse_if_no_backbone(name)


def listed(name: str, imagenet: Mapping[str, Accuracy]) -> ModelRow:
    """Describe a network by the registry alone: at once, but without the sizes that only a built network has."""
    from timm.models import get_pretrained_cfg

    check_name(name)
    arch, _, tag = name.partition(".")
    if is_own(name):
        return _row(name, None, imagenet)
    if name.startswith(HUB_PREFIXES):
        return _row(name, name, imagenet)
    if arch in OUR_CONFIGS:
        config = OUR_CONFIGS[arch]
        return _row(name, f"{arch}.{config['tag']}", imagenet, input_size=config["input_size"][1])
    found = get_pretrained_cfg(name)
    tag = tag or (found.tag if found else "") or ""
    size = found.input_size[1] if found else None
    return _row(name, f"{arch}.{tag}" if tag else None, imagenet, input_size=size)


def _row(
    name: str,
    weights: str | None,
    imagenet: Mapping[str, Accuracy],
    *,
    input_size: int | None = None,
    readouts: Mapping[str, int] | None = None,
    parameters: int | None = None,
) -> ModelRow:
    paper = next((network for network in KORNBLITH16 if network.model == weights), None)
    accuracy = imagenet.get(weights or name)
    return ModelRow(
        model=name,
        weights=weights,
        input_size=input_size,
        feature_dim=readouts[PENULTIMATE] if readouts else None,
        readouts=readouts,
        parameters=parameters,
        imagenet_top1=accuracy.top1 if accuracy else None,
        imagenet_source=accuracy.source if accuracy else None,
        network=paper.paper_name if paper else None,
        penultimate=paper.penultimate if paper else None,
        switches=paper.switches if paper else (),
    )


def _described_own(name: str) -> ModelRow:
    checked = load_own(name, seed=0)
    own = checked.network
    parameters = sum(p.numel() for p in own.parameters())
    size = own.preprocess.height
    row = _row(name, None, {}, input_size=size, readouts=own.readout_dims, parameters=parameters)
    return replace(row, warnings=checked.warnings)


def _matched(pattern: str) -> list[str]:
    if pattern in SETS or Path(pattern).suffix in _READERS:
        return model_set(pattern)
    if any(c in pattern for c in "*?[") and not is_own(pattern) and not pattern.startswith(HUB_PREFIXES):
        return _from_glob(pattern)
    check_name(pattern)
    return [pattern]


def _from_glob(pattern: str) -> list[str]:
    import timm

    with_tag = "." in pattern
    own = [f"{arch}.{config['tag']}" if with_tag else arch for arch, config in OUR_CONFIGS.items()]
    names: list[str] = timm.list_models(pattern, pretrained=with_tag)
    names += [name for name in own if fnmatchcase(name, pattern)]
    if not names:
        raise unknown_model(pattern)
    return names


def _listed_in(path: Path) -> list[str]:
    try:
        names = _READERS[path.suffix](path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"list of models {path} cannot be read: {error}") from error
    except ValueError as error:
        raise InputError(f"list of models {path}: {' '.join(str(error).split())}") from error
    if not names:
        raise InputError(f"list of models {path} is empty; expected names such as resnet50.tv_in1k")
    return names


def _from_text(text: str) -> list[str]:
    return [name for line in text.splitlines() if (name := line.partition("#")[0].strip())]


def _from_csv(text: str) -> list[str]:
    reader = csv.DictReader(text.splitlines())
    if "model" not in (reader.fieldnames or []):
        raise ValueError(f"expected a column model, it has {', '.join(reader.fieldnames or []) or 'none'}")
    return [row["model"] for row in reader]


def _from_yaml(text: str) -> list[str]:
    import yaml

    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    names = value.get("models") if isinstance(value, dict) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("expected a list of names, or one under `models`")
    return names


_READERS: dict[str, Callable[[str], list[str]]] = {
    ".txt": _from_text,
    ".csv": _from_csv,
    ".yaml": _from_yaml,
    ".yml": _from_yaml,
}
"""Suffix of a list of networks -> function that reads it; it raises ValueError if there is no list."""
