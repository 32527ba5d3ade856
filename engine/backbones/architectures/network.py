"""Network is timm's interface as a class, and PooledNetwork what the networks built here have in common."""

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

# Shapes: B images, C channels, H x W maps, D feature dimensions, K classes.


class Network(nn.Module):
    """The interface of timm's models, which have it without deriving from this class; networks built here derive."""

    pretrained_cfg: dict[str, Any]
    """Origin of the weights and how their input was made: architecture, tag, input_size, mean, std, ..."""

    num_classes: int
    """Number K of classes; 0 where there is no classifier."""

    head_hidden_size: int
    """Number D of features that the classifier takes."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the maps (B, C, H, W), or the tokens, before pooling."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the pooled features (B, D) if ``pre_logits``, else the classifier's outputs (B, K)."""
        raise NotImplementedError

    def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]:
        """Return the last layer, or two of them in distilled networks."""
        raise NotImplementedError

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a new one for ``num_classes`` classes, or remove it for 0."""
        raise NotImplementedError


class PooledNetwork(Network):
    """A network whose maps are averaged over space, dropped out in training, and classified by ``fc``."""

    def __init__(self, *, feature_dim: int, num_classes: int, dropout: float, pretrained_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.head_hidden_size = feature_dim
        self.dropout = dropout
        self.pretrained_cfg = pretrained_cfg
        self.fc: nn.Module
        self.reset_classifier(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into outputs (B, K)."""
        return self.forward_head(self.forward_features(x))

    @override
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        features_BD = nn.functional.dropout(x.mean(dim=(2, 3)), self.dropout, self.training)
        if pre_logits:
            return features_BD
        outputs_BK: Tensor = self.fc(features_BD)
        return outputs_BK

    @override
    def get_classifier(self) -> nn.Module:
        return self.fc

    @override
    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()


def to_channels_last(model: nn.Module) -> nn.Module:
    """Lay out the weights of two-dimensional convolutions channels-last, in place; returns the model.

    ``model.to(memory_format=torch.channels_last)`` refuses networks with tensors of five axes (LambdaResNet). Buffers
    that a network made itself in an earlier pass (ConViT) stay as they are: they are of inference mode, and torch lets
    nobody change such tensors.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4 and not tensor.is_inference():
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return model


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0, eps: float
) -> nn.Sequential:
    """Make a convolution without bias (``conv``), followed by batch norm (``bn``) and ReLU (``relu``)."""
    block = nn.Sequential()
    block.add_module(
        "conv", nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
    )
    block.add_module("bn", nn.BatchNorm2d(out_channels, eps=eps))
    block.add_module("relu", nn.ReLU(inplace=True))
    return block
