"""Keep a trained network as ``model.safetensors`` and ``config.json``, the layout of timm's ``local-dir:`` models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penultimate.engine.backbones.architectures.network import to_channels_last
from penultimate.engine.backbones.architectures.networks import create_network
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.train.learner.network import Normalise
from penultimate.engine.train.recipe import Recipe
from penultimate.store.errors import StoreError

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_trained(folder: Path, weights: Mapping[str, Tensor], recipe: Recipe, images: ImageSet) -> None:
    """Write both files, each whole or not at all. Raises StoreError or OSError."""
    partial = folder / f"{WEIGHTS}.partial"
    try:
        save_file(dict(weights), partial, metadata={"format": "pt"})
    except SafetensorError as error:  # its own kind for a full disk
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"{folder / WEIGHTS} could not be written ({error}); the last checkpoint is untouched; "
            "make room and run again"
        ) from error
    partial.replace(folder / WEIGHTS)
    partial = folder / f"{CONFIG}.partial"
    partial.write_text(json.dumps(_config(recipe, images), indent=1), encoding="utf-8")
    partial.replace(folder / CONFIG)


def _config(recipe: Recipe, images: ImageSet) -> dict[str, Any]:
    """Describe the network as timm does, with its class names and its recipe."""
    view = recipe.preprocess
    return {
        "architecture": recipe.network,
        "num_classes": len(images.class_names),
        "label_names": list(images.class_names),
        "pretrained_cfg": {
            "tag": recipe.digest,
            "input_size": [3, view.height, view.width],
            "fixed_input_size": False,
            "interpolation": view.interpolation,
            "crop_pct": view.crop_pct,
            "crop_mode": "squash" if view.resize == "whole" else "center",
            "mean": list(view.mean),
            "std": list(view.std),
            "num_classes": len(images.class_names),
        },
        "recipe": recipe.as_dict(),
    }


def load_trained(folder: Path, recipe: Recipe, *, num_classes: int, device: torch.device) -> nn.Module:
    """Load the network of a finished run, which maps uint8 images (B, H, W, C) to logits (B, K)."""
    network = create_network(recipe.network, num_classes=num_classes)
    network.load_state_dict(load_file(folder / WEIGHTS))
    network = network.to(device)
    if recipe.channels_last:
        to_channels_last(network)
    return nn.Sequential(Normalise(recipe.preprocess.mean, recipe.preprocess.std).to(device), network).eval()
