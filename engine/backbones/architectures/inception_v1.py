"""Inception v1 (GoogLeNet) from torchvision's blocks, as timm does not have it.

Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015), with batch normalisation, as in TF-Slim's
``inception_v1``, whose weights torchvision publishes. Both have 3x3 where the paper has 5x5 (pytorch/vision#906).
"""

from typing import Any

from torch import Tensor

from penultimate.engine.backbones.architectures.network import PooledNetwork

# Shapes: B images, H x W pixels.


class InceptionV1(PooledNetwork):
    """Inception v1, whose penultimate layer is the 1024 channels of ``inception5b`` averaged over space."""

    def __init__(self, *, num_classes: int = 1000, dropout: float = 0.0, pretrained_cfg: dict[str, Any]) -> None:
        from torchvision.models import GoogLeNet

        super().__init__(feature_dim=1024, num_classes=num_classes, dropout=dropout, pretrained_cfg=pretrained_cfg)
        # torchvision's order of construction is its order of execution; its own head is left out.
        trunk = GoogLeNet(aux_logits=False, init_weights=True)
        self.trunk_names = [name for name, _ in trunk.named_children() if name not in ("avgpool", "dropout", "fc")]
        for name in self.trunk_names:
            self.add_module(name, trunk.get_submodule(name))

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into maps (B, 1024, H / 32, W / 32)."""
        for name in self.trunk_names:
            x = self.get_submodule(name)(x)
        return x
