"""Tell where a network of the user's is shown images on another scale than it was trained on.

Batch norms remember what they were trained on: mean and variance of every channel of their input. The first one of a
network is compared with what it gets from two photographs (they come with scikit-learn). The measure is the
Kullback-Leibler divergence between two normal distributions, the mean over channels, in nats:
1/2 (v / r + (m - n)^2 / r - 1 - ln(v / r)) with mean m and variance v of the channel here, n and r remembered.

Measured with EfficientNet-Lite 0, 1 and 2 (``tests/engine/backbones/own/test_input_scale.py``): 0.05 to 0.06 with their
own mean and std, 0.42 to 0.44 with pixels between 0 and 1, 0.7 to 1.4 with CLIP's or ImageNet's mean and std, over
14,000 with pixels between 0 and 255.

Networks without batch norm remember nothing of the kind. Of them it is told alone where the features of two images are
almost equal, as they are where pixels were divided by 255 twice.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from penultimate.engine.backbones.own.checks import Features, normalised
from penultimate.engine.backbones.own.own_network import OwnNetwork
from penultimate.store.key import PENULTIMATE

Scale = tuple[tuple[float, float, float], tuple[float, float, float]]

SCALES: dict[str, Scale] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "pixels between -1 and 1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "pixels between 0 and 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "pixels between 0 and 255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
"""Name of a way to scale pixels -> its mean and std."""

_FAR, _RATIO = 0.3, 4.0
"""Divergence, in nats a channel, from which on a scale is doubted, and how much nearer another must be."""

_SAME = 0.02
"""Relative distance of the two fixed images' features below which they hardly depend on the image.

Measured: 0.09 to 0.67 for nine networks of torchvision and transformers with random weights, and trained Lite 0; with
pixels divided by 255 twice 0.002 to 0.016 for six of them, and 0.05 to 0.14 for four whose norms make up for it."""


def scale_warnings(network: OwnNetwork, features: Features) -> tuple[str, ...]:
    """Return what there is to say about the scale of the network's input, in whole sentences for people.

    ``features`` are those of two different images.
    """
    return (*_other_scale(network), *_constant(features))


def divergence(network: OwnNetwork, scale: Scale) -> float | None:
    """Return how far two photographs on ``scale`` are from what the network's first batch norm remembers, in nats.

    None where the network has no batch norm that was trained, or does not get to one.
    """
    trained = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and _is_trained(layer)]
    hooks = [layer.register_forward_pre_hook(_stop) for layer in trained]
    view = replace(network.preprocess, mean=scale[0], std=scale[1])
    photographs = normalised(_photographs(view.height, view.width), view).float()
    try:
        with torch.inference_mode():
            network(photographs)
    except _Reached as reached:
        return _divergence(reached.layer, reached.maps)
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _other_scale(network: OwnNetwork) -> tuple[str, ...]:
    own = network.preprocess.mean, network.preprocess.std
    found = divergence(network, own)
    if found is None or found < _FAR:
        return ()
    others = {name: other for name, scale in SCALES.items() if (other := divergence(network, scale)) is not None}
    nearest = min(others, key=lambda name: others[name])
    if others[nearest] * _RATIO > found:
        return ()
    mean, std = SCALES[nearest]
    return (
        f"its input is on another scale than its first batch norm was trained on ({found:.2g} nats a channel from it "
        f"with mean {_short(own[0])} and std {_short(own[1])}); this fits better: {nearest}, mean {_short(mean)} and "
        f"std {_short(std)} ({others[nearest]:.2g} nats)",
    )


def _constant(features: Features) -> tuple[str, ...]:
    first, second = features[PENULTIMATE]
    distance = float((first - second).norm() / first.norm())
    if distance >= _SAME:
        return ()
    return (
        f"its features hardly depend on the image (two unlike images differ by {distance:.1g} of the norm); are pixels "
        "scaled twice, or is a layer taken that was never trained?",
    )


class _Reached(BaseException):
    """Ends a pass at a batch norm; no Exception, so that no network catches it."""

    def __init__(self, layer: _BatchNorm, maps: Tensor) -> None:
        super().__init__()
        self.layer, self.maps = layer, maps


def _stop(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    assert isinstance(layer, _BatchNorm)
    raise _Reached(layer, inputs[0])


def _is_trained(layer: _BatchNorm) -> bool:
    """Return whether the layer remembers anything: mean and variance of a new one are 0 and 1."""
    if layer.running_mean is None or layer.running_var is None:
        return False
    return bool((layer.running_mean != 0).any() or (layer.running_var != 1).any())


def _divergence(layer: _BatchNorm, maps: Tensor) -> float:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    variance, mean = torch.var_mean(maps.double().transpose(0, 1).flatten(1), dim=1)
    remembered, remembered_mean = layer.running_var.double() + layer.eps, layer.running_mean.double()
    ratio = (variance + layer.eps) / remembered
    return float((ratio + (mean - remembered_mean) ** 2 / remembered - 1 - ratio.log()).mean() / 2)


@cache
def _photographs(height: int, width: int) -> NDArray[np.uint8]:
    """Return two photographs as uint8 (2, H, W, 3)."""
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in images])


def _short(values: tuple[float, float, float]) -> str:
    return f"({', '.join(f'{value:.3g}' for value in values)})"
