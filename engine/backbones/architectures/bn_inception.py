"""BN-Inception, the network in which batch normalisation was introduced, and which timm does not have.

Structure: Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift" (ICML 2015), figure 5; strides, pooling and the names of layers as in the Caffe network of
X. Yuan (Temporal Segment Networks), whose weights R. Cadene published for PyTorch: `layouts.py` reads them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from penultimate.engine.backbones.architectures.network import PooledNetwork, convolution

# Shapes: B images, C channels, H x W maps.

EPS = 1e-5
"""Epsilon of batch normalisation: Caffe's default, which the published weights were trained with."""


@dataclass(frozen=True, slots=True)
class Block:
    """The numbers of output channels of one block, a row of figure 5."""

    one: int
    """Channels of the 1x1 branch; 0 in the blocks that halve the map (stride 2), which pass their pooled input on."""

    three: tuple[int, int]
    """Channels of the 1x1 reduction and of the 3x3 convolution."""

    double: tuple[int, int]
    """Channels of the 1x1 reduction and of each of the two 3x3 convolutions."""

    pool: str
    """Kind of pooling, ``avg`` or ``max``."""

    projection: int
    """Channels of the 1x1 convolution after pooling; 0 passes the pooled input on."""

    def channels_after(self, in_channels: int) -> int:
        """Return the number of channels of the concatenated branches."""
        return self.one + self.three[1] + self.double[1] + (self.projection or in_channels)


BLOCKS = {
    "inception_3a": Block(64, (64, 64), (64, 96), "avg", 32),
    "inception_3b": Block(64, (64, 96), (64, 96), "avg", 64),
    "inception_3c": Block(0, (128, 160), (64, 96), "max", 0),
    "inception_4a": Block(224, (64, 96), (96, 128), "avg", 128),
    "inception_4b": Block(192, (96, 128), (96, 128), "avg", 128),
    "inception_4c": Block(160, (128, 160), (128, 160), "avg", 128),
    "inception_4d": Block(96, (128, 192), (160, 192), "avg", 128),
    "inception_4e": Block(0, (128, 192), (192, 256), "max", 0),
    "inception_5a": Block(352, (192, 320), (160, 224), "avg", 128),
    "inception_5b": Block(352, (192, 320), (192, 224), "max", 128),
}
"""Name of each block -> its channels, in order."""


class InceptionBlock(nn.Module):
    """A block of up to four branches over the same input, concatenated over channels."""

    def __init__(self, in_channels: int, block: Block) -> None:
        super().__init__()
        stride = 1 if block.one else 2
        self.has_one = block.one > 0
        self.has_projection = block.projection > 0
        if self.has_one:
            self.add_module("1x1", convolution(in_channels, block.one, 1, eps=EPS))
        reduced, out = block.three
        self.add_module("3x3_reduce", convolution(in_channels, reduced, 1, eps=EPS))
        self.add_module("3x3", convolution(reduced, out, 3, stride=stride, padding=1, eps=EPS))
        reduced, out = block.double
        self.add_module("double_3x3_reduce", convolution(in_channels, reduced, 1, eps=EPS))
        self.add_module("double_3x3_1", convolution(reduced, out, 3, padding=1, eps=EPS))
        self.add_module("double_3x3_2", convolution(out, out, 3, stride=stride, padding=1, eps=EPS))
        self.pool = _pool(block.pool, stride)
        if self.has_projection:
            self.add_module("pool_proj", convolution(in_channels, block.projection, 1, eps=EPS))

    def forward(self, x: Tensor) -> Tensor:
        """Turn maps (B, C, H, W) into (B, C', H, W), or (B, C', H / 2, W / 2) with stride 2."""
        branches = [self._through(x, "1x1")] if self.has_one else []
        branches.append(self._through(x, "3x3_reduce", "3x3"))
        branches.append(self._through(x, "double_3x3_reduce", "double_3x3_1", "double_3x3_2"))
        pooled: Tensor = self.pool(x)
        branches.append(self._through(pooled, "pool_proj") if self.has_projection else pooled)
        return torch.cat(branches, dim=1)

    def _through(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class BNInception(PooledNetwork):
    """BN-Inception, whose penultimate layer is the 1024 channels of ``inception_5b`` averaged over space."""

    def __init__(self, *, num_classes: int = 1000, dropout: float = 0.0, pretrained_cfg: dict[str, Any]) -> None:
        super().__init__(feature_dim=1024, num_classes=num_classes, dropout=dropout, pretrained_cfg=pretrained_cfg)
        self.trunk_names = ["conv1_7x7_s2", "pool1", "conv2_3x3_reduce", "conv2_3x3", "pool2", *BLOCKS]
        self.conv1_7x7_s2 = convolution(3, 64, 7, stride=2, padding=3, eps=EPS)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2_3x3_reduce = convolution(64, 64, 1, eps=EPS)
        self.conv2_3x3 = convolution(64, 192, 3, padding=1, eps=EPS)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        channels = 192
        for name, block in BLOCKS.items():
            self.add_module(name, InceptionBlock(channels, block))
            channels = block.channels_after(channels)
        self.apply(_initialise)

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into maps (B, 1024, H / 32, W / 32)."""
        for name in self.trunk_names:
            x = self.get_submodule(name)(x)
        return x


def _pool(kind: str, stride: int) -> nn.Module:
    if stride == 2:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)
    return nn.MaxPool2d(3, stride=1, padding=1) if kind == "max" else nn.AvgPool2d(3, stride=1, padding=1)


def _initialise(module: nn.Module) -> None:
    """Initialise convolutions as He et al. 2015; batch norm and the classifier keep torch's own initialisation."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
