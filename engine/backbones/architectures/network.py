"""Network: timm's interface written down, and what the networks of our own share of it."""

from typing import Any

import torch
from torch import Tensor, nn

# Shapes: B images, C channels, H x W maps, D feature dimensions, K classes.


class Network(nn.Module):
    """timm's interface: every timm model has it without deriving from this class; ours derive."""

    pretrained_cfg: dict[str, Any]
    """Where the weights were and how their input was made: architecture, tag, input_size, mean, std, ..."""

    num_classes: int
    """K; 0 where there is no classifier."""

    head_hidden_size: int
    """D, what the classifier takes."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W), or tokens, before pooling."""
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
        """Images (B, 3, H, W) to outputs (B, K)."""
        return self.forward_head(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """See Network."""
        features_BD = nn.functional.dropout(x.mean(dim=(2, 3)), self.dropout, self.training)
        if pre_logits:
            return features_BD
        outputs_BK: Tensor = self.fc(features_BD)
        return outputs_BK

    def get_classifier(self) -> nn.Module:
        """See Network."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """See Network."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()


def to_channels_last(model: nn.Module) -> nn.Module:
    """Lay out the weights of two-dimensional convolutions channels-last, in place; returns the model.

    ``model.to(memory_format=torch.channels_last)`` refuses networks with tensors of five axes (LambdaResNet).
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return model


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0, eps: float
) -> nn.Sequential:
    """Convolution without bias (``conv``), batch norm (``bn``), ReLU."""
    block = nn.Sequential()
    block.add_module(
        "conv", nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
    )
    block.add_module("bn", nn.BatchNorm2d(out_channels, eps=eps))
    block.add_module("relu", nn.ReLU(inplace=True))
    return block
