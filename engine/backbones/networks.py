"""Networks by name: one way to build a timm model, whatever weights go into it afterwards."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from penultimate.store.errors import InputError, UnknownNameError

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
"""A name that begins so is a repository of the Hugging Face hub holding a timm ``config.json``."""


class Network(nn.Module):
    """timm's interface, written down for the type checker: every timm model has it."""

    pretrained_cfg: dict[str, Any]
    num_classes: int
    head_hidden_size: int
    """D, what the classifier takes."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps or tokens before pooling."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features (B, D) if ``pre_logits``, else the classifier's outputs (B, K)."""
        raise NotImplementedError

    def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]:
        """The last layer; two of them in distilled networks."""
        raise NotImplementedError

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer, or none for 0."""
        raise NotImplementedError


def create_network(name: str, *, pretrained: bool = False, seed: int = 0) -> Network:
    """The timm model ``name`` in evaluation mode on the CPU, hub weights loaded if ``pretrained``.

    Whatever is drawn at random is drawn from ``seed``; torch's global generator is left as it was.

    Raises UnknownNameError for an architecture or a tag that timm does not have, OSError if the hub cannot
    be reached, InputError if timm knows no weights for it.
    """
    import timm

    check_name(name)
    with _Seeded(seed):
        try:
            model = timm.create_model(name, pretrained=pretrained)
        except RuntimeError as error:
            if "No pretrained weights exist" in str(error):
                raise InputError(
                    f"timm has no pretrained weights for {name!r}; give --weights random or a file"
                ) from error
            raise
    return cast("Network", model.eval())  # duck-typed: timm's models share no base class


def check_name(name: str) -> None:
    """Raise UnknownNameError unless ``name`` is an architecture, ``arch.tag`` or a hub repository."""
    import timm

    if name.startswith(HUB_PREFIXES):
        return
    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        raise UnknownNameError("model", name, timm.list_models())
    tags = weight_tags(arch)
    if tag and tag not in tags:
        raise UnknownNameError(f"weights tag of {arch}", tag, tags or ["none: use --weights random or a file"])


def weight_tags(arch: str) -> list[str]:
    """Tags of the weights timm knows for an architecture."""
    import timm

    return [name.partition(".")[2] for name in timm.list_models(f"{arch}.*", include_tags=True)]


def full_name(name: str, model: Network) -> str:
    """``arch.tag`` with the tag that was resolved; a hub repository keeps the name it was asked by."""
    if name.startswith(HUB_PREFIXES):
        return name
    tag = model.pretrained_cfg["tag"]
    arch = name.partition(".")[0]
    return f"{arch}.{tag}" if tag else arch


class _Seeded:
    """Runs its block with torch's CPU generator seeded, and puts the generator's state back."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = torch.random.get_rng_state()
        torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would seed every GPU as well

    def __exit__(self, *_: object) -> None:
        torch.random.set_rng_state(self.state)
