"""Build the network that a Recipe trains: its initial weights, its new classifier, and the recipe's switches."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from penultimate.engine.backbones.architectures.auxiliary import AuxiliaryNetwork
from penultimate.engine.backbones.architectures.network import Network
from penultimate.engine.backbones.architectures.networks import arch_of, create_network, fix_batch_norm_scale, full_name
from penultimate.engine.backbones.catalog import refuse_to_train
from penultimate.engine.backbones.classifier import classifier_names
from penultimate.engine.backbones.loading.weights import load_network
from penultimate.engine.train.learner.schedule import batch_norm_momentum, set_batch_norm_momentum
from penultimate.engine.train.recipe import Recipe
from penultimate.store.errors import InputError

# Shapes: B images of a batch, H x W pixels, C = 3 channels (RGB).

InitName = Literal["pretrained", "random"]

RANDOM = "random"
"""Digest of tensors that are drawn from the recipe's seed, so that trials from several seeds ask the same question."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class InitialModel:
    """The network that training begins with, its weights in place, on the CPU."""

    model: Network
    network: str
    """Architecture, as in ``Recipe.network``."""

    label: str
    """Name in ``Trial.backbone``, the same fine-tuned or from scratch, so that the two compare."""

    digest: str
    """Digest of the tensors, or RANDOM; as in ``Recipe.weights``."""

    source: str
    """Origin of the tensors, for people."""

    pretrained: bool


def load_initial_model(name: str, *, init: InitName, weights: str, seed: int) -> InitialModel:
    """Load the network ``name`` with ``weights`` (``timm``, ``package``, a file or a run) or random ones from ``seed``.

    Raises what ``load_network`` raises, InputError for a network that cannot be given a classifier.
    """
    refuse_to_train(name)
    if init == "pretrained" and weights != "random":
        loaded = load_network(name, weights=weights, seed=seed)
        return InitialModel(
            model=loaded.model,
            network=arch_of(name),
            label=loaded.name,
            digest=loaded.digest,
            source=loaded.source,
            pretrained=True,
        )
    model = create_network(name, seed=seed)
    return InitialModel(
        model=model,
        network=arch_of(name),
        label=full_name(name, model) if weights == "timm" else name,
        digest=RANDOM,
        source=f"random, seed {seed}",
        pretrained=False,
    )


def build_network(initial: InitialModel, recipe: Recipe, *, num_classes: int, steps_per_epoch: int) -> Network:
    """Copy ``initial``, with a new classifier of ``num_classes`` drawn from the seed.

    Raises InputError if the network refuses the recipe's image size, or has learned a batch-norm scale that
    the recipe does without.
    """
    model = create_network(recipe.network, seed=recipe.seed, num_classes=num_classes, dropout=recipe.dropout)
    skip, new = classifier_names(initial.model), model.state_dict()
    # Some networks have class scores beside the classifier (VOLO's auxiliary head): new too, where K is another.
    tensors = {
        name: t for name, t in initial.model.state_dict().items() if name not in skip and t.shape == new[name].shape
    }
    model.load_state_dict(tensors, strict=False)  # all but the classifier: same architecture
    if not recipe.batch_norm_scale:
        fix_batch_norm_scale(model, initial=not initial.pretrained)
    set_batch_norm_momentum(model, batch_norm_momentum(steps_per_epoch))
    _pass(model, recipe, batch=1)
    return model


def with_heads(network: Network, recipe: Recipe) -> nn.Module:
    """Add the auxiliary heads to the network if the recipe has them.

    Raises UnknownNameError for a network without any, InputError for an image too small for them.
    """
    if not recipe.auxiliary_head:
        return network
    with_auxiliary = AuxiliaryNetwork(network, recipe.network, seed=recipe.seed)
    trial = deepcopy(with_auxiliary).train()  # batch norm learns from what it sees
    _pass(trial, recipe, batch=2)
    return with_auxiliary


def _pass(model: nn.Module, recipe: Recipe, *, batch: int) -> None:
    height, width = recipe.preprocess.height, recipe.preprocess.width
    try:
        with torch.inference_mode():
            model(torch.zeros(batch, 3, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:  # timm asserts the size of transformers' inputs
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{recipe.network} refuses images of {height} x {width} pixels: {reason}") from error


class Normalise(nn.Module):
    """Maps uint8 pixels (B, H, W, C) to float32 (B, C, H, W): (x / 255 - mean) / std, channels-last in memory."""

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        deviation_C, mean_C = torch.tensor(std, dtype=torch.float64), torch.tensor(mean, dtype=torch.float64)
        self.register_buffer("scale_C11", (1.0 / (255.0 * deviation_C)).float().view(3, 1, 1), persistent=False)
        self.register_buffer("shift_C11", (-mean_C / deviation_C).float().view(3, 1, 1), persistent=False)

    def forward(self, images_BHWC: Tensor) -> Tensor:
        """Normalise; BHWC memory read as BCHW is channels-last already."""
        pixels_BCHW = images_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.preserve_format)
        return pixels_BCHW.mul_(self.scale_C11).add_(self.shift_C11)
