"""OwnNetwork gives a module of the user's the interface of timm's networks, and knows how its input is made."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from penultimate.engine.backbones.architectures.network import Network
from penultimate.engine.images.preprocess import Preprocess
from penultimate.store.errors import InputError
from penultimate.store.key import PENULTIMATE

# Shapes: B images of a batch, H x W pixels, D feature dimensions.

_FIELDS = {"size", "mean", "std"}


class OwnNetwork(Network):
    """A module that maps normalised images (B, 3, H, W) float32 to vectors (B, D), or to a dict of them by readout.

    It has no classifier. One vector is the readout ``penultimate``.
    """

    def __init__(self, module: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.module = module
        self.preprocess = preprocess
        self.num_classes = 0
        self.pretrained_cfg = {"input_size": (3, preprocess.height, preprocess.width)}
        self.readout_dims: dict[str, int] = {}
        """Number D of features by name of readout; empty until the module was run."""
        self.training = module.training

    @property
    def head_hidden_size(self) -> int:  # type: ignore[override]  # known once the module was run
        """Number D of features of the readout ``penultimate``."""
        return self.readout_dims[PENULTIMATE]

    def preprocess_for(self, kind: str) -> Preprocess:
        """Return the network's own Preprocess, which ``kind`` turns upright by EXIF (``-exif``) and else leaves."""
        return replace(self.preprocess, exif_orientation=self.preprocess.exif_orientation or kind.endswith("-exif"))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Turn images (B, 3, H, W) into vectors (B, D) by name of readout."""
        output: Any = self.module(x)
        return dict(output) if isinstance(output, Mapping) else {PENULTIMATE: output}

    @override
    def forward_features(self, x: Tensor) -> Any:
        return self.forward(x)

    @override
    def forward_head(self, x: Any, pre_logits: bool = False) -> Tensor:
        features_BD: Tensor = x[PENULTIMATE]
        return features_BD

    @override
    def get_classifier(self) -> nn.Module:
        return nn.Identity()


def preprocess_from(given: Any, name: str) -> Preprocess:
    """Return the Preprocess that a function of the user's gave, or one of the whole image from ``size, mean, std``.

    Raises InputError for anything else, and for a mean that is not of pixels between 0 and 1.
    """
    if not isinstance(given, Preprocess | Mapping) or (isinstance(given, Mapping) and set(given) != _FIELDS):
        what = f"a dict of {', '.join(map(str, given))}" if isinstance(given, Mapping) else type(given).__name__
        raise InputError(
            f"{name} gives {what} for how its images are made; expected a penultimate.Preprocess, or a dict of size "
            "(pixels, or (height, width)), mean and std (three numbers each, of pixels between 0 and 1)"
        )
    try:
        found = given if isinstance(given, Preprocess) else _of_the_whole_image(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: size, mean or std is not understood: {error}") from error
    if max(found.mean) > 1:
        raise InputError(
            f"{name} gives mean {found.mean}; expected one of pixels between 0 and 1: divide mean and std by 255"
        )
    return found


def _of_the_whole_image(*, size: Any, mean: Any, std: Any) -> Preprocess:
    height, width = (size, size) if isinstance(size, int) else size
    red, green, blue = map(float, mean)
    of_red, of_green, of_blue = map(float, std)
    return Preprocess(
        height=int(height),
        width=int(width),
        resize="whole",
        mean=(red, green, blue),
        std=(of_red, of_green, of_blue),
    )
