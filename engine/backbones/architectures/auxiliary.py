"""Add auxiliary classifiers, the extra heads with which the Inceptions and NASNets were trained on ImageNet.

They are one of the four settings whose effect on transfer the paper studies (section 4.1). They are used in training
alone and leave the network's own tensors untouched, so that only the network is kept afterwards.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penultimate.engine.backbones.architectures.network import Network, convolution
from penultimate.engine.backbones.architectures.seeded import Seeded
from penultimate.store.errors import UnknownNameError

# Shapes: B images, C channels, H x W maps, K classes.


@dataclass(frozen=True, slots=True)
class Tap:
    """The block of a network that an auxiliary head is attached to."""

    module: str
    """Name in the network of the block whose output the head classifies."""

    channels: int
    """Number C of channels of that output."""

    map_size: int
    """Height and width of that output after 5x5 average pooling of stride 3, at the network's own input size."""


@dataclass(frozen=True, slots=True)
class AuxiliaryHeads:
    """The auxiliary heads of one network."""

    taps: tuple[Tap, ...]
    """Block of each head."""

    loss_weight: float
    """Factor of each head's loss in the total loss."""

    googlenet: bool = False
    """True for heads of Szegedy et al. 2015, section 5: a hidden layer of 1024 and dropout 0.7. False for those of
    Szegedy et al. 2016, as in TF-Slim: a convolution over the whole map to 768."""


HEADS = {
    "inception_v1": AuxiliaryHeads((Tap("inception4a", 512, 4), Tap("inception4d", 528, 4)), 0.3, googlenet=True),
    # Ioffe & Szegedy 2015 show none; it is attached where Inception v3's is, before the last reduction.
    "bn_inception": AuxiliaryHeads((Tap("inception_4d", 608, 4),), 0.4),
    "inception_v3": AuxiliaryHeads((Tap("Mixed_6e", 768, 5),), 0.4),
    "inception_v4": AuxiliaryHeads((Tap("features.17", 1024, 5),), 0.4),
    "inception_resnet_v2": AuxiliaryHeads((Tap("repeat_1", 1088, 5),), 0.4),
    "nasnetamobile": AuxiliaryHeads((Tap("cell_9", 528, 4),), 0.4),
    "nasnetalarge": AuxiliaryHeads((Tap("cell_11", 2016, 6),), 0.4),
}
"""Architecture -> its heads. Blocks and weights are those of TF-Slim's definitions; GoogLeNet's are its paper's."""


class AuxiliaryNetwork(nn.Module):
    """A network together with its auxiliary heads, for training."""

    def __init__(self, network: Network, arch: str, *, seed: int) -> None:
        """Attach the heads of ``arch``, initialised from ``seed``.

        Raises UnknownNameError for an architecture that has none.
        """
        super().__init__()
        if arch not in HEADS:
            raise UnknownNameError("network with auxiliary heads", arch, HEADS)
        self.network = network
        self.loss_weight = HEADS[arch].loss_weight
        make = _googlenet_head if HEADS[arch].googlenet else _slim_head
        with Seeded(seed):
            self.heads = nn.ModuleList(make(tap, network.num_classes) for tap in HEADS[arch].taps)
        self._maps: list[Tensor] = []
        for tap in HEADS[arch].taps:
            network.get_submodule(tap.module).register_forward_hook(self._keep)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the outputs (B, K) of the network, and those of each head in training; no heads' in evaluation."""
        self._maps.clear()
        outputs_BK: Tensor = self.network(x)
        auxiliary = tuple(head(maps) for head, maps in zip(self.heads, self._maps, strict=False))
        self._maps.clear()
        return outputs_BK, auxiliary

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self.training:
            self._maps.append(output)


class _SpatialMean(nn.Module):
    """The mean over space, from (B, C, H, W) to (B, C); H = W = 1 at the network's own input size."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def _slim_head(tap: Tap, num_classes: int) -> nn.Module:
    """Make a head as in TF-Slim. NASNet's cells give sums before a ReLU; the Inceptions' maps are unchanged by it."""
    return nn.Sequential(
        nn.ReLU(),
        nn.AvgPool2d(5, stride=3),
        convolution(tap.channels, 128, 1, eps=1e-3),
        convolution(128, 768, tap.map_size, eps=1e-3),
        _SpatialMean(),
        nn.Linear(768, num_classes),
    )


def _googlenet_head(tap: Tap, num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.AvgPool2d(5, stride=3),
        convolution(tap.channels, 128, 1, eps=1e-3),
        nn.AdaptiveAvgPool2d(tap.map_size),
        nn.Flatten(),
        nn.Linear(128 * tap.map_size**2, 1024),
        nn.ReLU(),
        nn.Dropout(0.7),
        nn.Linear(1024, num_classes),
    )


def total_loss(
    loss: nn.Module, outputs: tuple[Tensor, tuple[Tensor, ...]], targets: Tensor, *, weight: float
) -> Tensor:
    """Return the main loss plus ``weight`` times each head's, as GoogLeNet and TF-Slim add them."""
    main, auxiliary = outputs
    total: Tensor = loss(main, targets)
    return total + weight * torch.stack([loss(head, targets) for head in auxiliary]).sum() if auxiliary else total
