"""TimmBackbone: any network with timm's interface as a frozen feature extractor.

uint8 pixels come in, float32 penultimate features go out: what the classifier sees, that is
``forward_head(forward_features(x), pre_logits=True)``.
"""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.backbones.network import Network
from penultimate.engine.backbones.weights import load_network
from penultimate.engine.images.preprocess import Preprocess
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError

# Shapes: B images of a batch, H x W pixels, C = 3 channels, D feature dimensions, K classes of the classifier.

PrecisionName = Literal["float32", "bfloat16", "float16"]

PreprocessKind = Literal["paper", "timm"]
"""The whole image to the input size, or timm's own resize and centre crop."""

PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""What the network computes in. Below float32 by autocast: weights stay float32, convolutions and products do not."""


class TimmBackbone:
    """A frozen network: name, weights digest, feature dimension, preprocess, and ``embed``."""

    def __init__(
        self,
        model: Network,
        *,
        name: str,
        weights_digest: str,
        weights_source: str,
        preprocess: Preprocess,
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        """Move ``model`` to ``device`` and run it once to learn its feature dimension.

        Raises UnavailableError for a device or precision that is not here, InputError for a network whose
        penultimate output is not one vector an image.
        """
        self.name = name
        self.weights_digest = weights_digest
        self.weights_source = weights_source
        self.preprocess = preprocess
        self.precision = precision
        self.device = _device(device)
        self._dtype = _dtype(precision, self.device)
        self.model = model.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        scale, shift = _affine(preprocess)
        self._scale_C = torch.tensor(scale, device=self.device).view(1, 3, 1, 1)
        self._shift_C = torch.tensor(shift, device=self.device).view(1, 3, 1, 1)
        self.feature_dim = self._measured_dim()

    @property
    def num_classes(self) -> int:
        """K of the classifier that was loaded; 0 if there is none."""
        return self.model.num_classes

    @property
    def num_parameters(self) -> int:
        """Of the whole network, with the classifier."""
        return sum(p.numel() for p in self.model.parameters())

    def embed(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Penultimate features (B, D) of RGB images already resized to ``preprocess``; normalises them itself."""
        return self._run(images_BHWC, pre_logits=True)

    def logits(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs (B, K) of the classifier that came with the weights; InputError if they had none."""
        if self.num_classes == 0:
            raise InputError(f"{self.name} has no classifier: its weights ({self.weights_source}) hold none")
        return self._run(images_BHWC, pre_logits=False)

    def _run(self, images_BHWC: NDArray[np.uint8], *, pre_logits: bool) -> NDArray[np.float32]:
        self._check(images_BHWC)
        with torch.inference_mode():
            output = self._forward(self._normalised(self._on_device(images_BHWC)), pre_logits=pre_logits)
            return np.asarray(output.float().cpu().numpy(), dtype=np.float32)

    def _check(self, images_BHWC: NDArray[np.uint8]) -> None:
        expected = (self.preprocess.height, self.preprocess.width, 3)
        if images_BHWC.dtype != np.uint8 or images_BHWC.ndim != 4 or images_BHWC.shape[1:] != expected:
            raise InputError(
                f"{self.name} takes uint8 images of shape (B, {expected[0]}, {expected[1]}, 3), "
                f"got {images_BHWC.dtype} of shape {images_BHWC.shape}"
            )

    def _on_device(self, images_BHWC: NDArray[np.uint8]) -> Tensor:
        # torch wants memory it may write to; decoders hand out read-only views, which are copied here.
        writable = np.require(images_BHWC, requirements=["C", "W"])
        return torch.from_numpy(writable).to(self.device)

    def _normalised(self, images_BHWC: Tensor) -> Tensor:
        """(B, C, H, W) float32, (x / 255 - mean) / std; BHWC memory read as BCHW is channels-last already."""
        pixels_BCHW = images_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.preserve_format)
        return pixels_BCHW.mul_(self._scale_C).add_(self._shift_C)

    def _forward(self, pixels_BCHW: Tensor, *, pre_logits: bool) -> Tensor:
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            maps = self.model.forward_features(pixels_BCHW)
            return self.model.forward_head(maps, pre_logits=pre_logits)

    def _measured_dim(self) -> int:
        black = torch.zeros((1, self.preprocess.height, self.preprocess.width, 3), dtype=torch.uint8)
        with torch.inference_mode():
            features = self._forward(self._normalised(black.to(self.device)), pre_logits=True)
        if features.ndim != 2:
            raise InputError(
                f"the penultimate output of {self.name} has shape {tuple(features.shape)} for one image; "
                "expected (1, D), one vector an image: this network cannot be a backbone"
            )
        return int(features.shape[1])


def load_backbone(
    name: str,
    *,
    weights: str = "timm",
    preprocess: PreprocessKind = "paper",
    device: str = "cpu",
    precision: PrecisionName = "float32",
    seed: int = 0,
) -> TimmBackbone:
    """The network ``name`` with ``weights`` (``timm``, ``package``, ``random`` or a file), ready to embed.

    Raises what ``load_network`` and ``TimmBackbone`` raise.
    """
    _dtype(precision, _device(device))  # before a download, not after
    network = load_network(name, weights=weights, seed=seed)
    return TimmBackbone(
        network.model,
        name=network.name,
        weights_digest=network.digest,
        weights_source=network.source,
        preprocess=preprocess_of(network.model, preprocess),
        device=device,
        precision=precision,
    )


def preprocess_of(model: Network, kind: PreprocessKind) -> Preprocess:
    """How the input of ``model`` is made, from the configuration that came with its weights.

    ``paper``: the whole image to the input size, bicubic. ``timm``: timm's own evaluation (crop share,
    interpolation). Mean and standard deviation are the network's in both.
    """
    from timm.data.config import resolve_model_data_config

    if kind not in get_args(PreprocessKind):
        raise UnknownNameError("preprocess", kind, get_args(PreprocessKind))
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    _, height, width = config["input_size"]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if kind == "paper":
        return Preprocess(height=height, width=width, resize="whole", mean=mean, std=std)
    interpolation = config["interpolation"]
    squash = config["crop_mode"] == "squash"
    if interpolation not in ("bicubic", "bilinear") or (squash and config["crop_pct"] != 1.0):
        raise UnavailableError(
            f"timm's evaluation of this network resizes by {interpolation!r} with crop mode {config['crop_mode']!r} "
            f"and share {config['crop_pct']}, which is not offered; use --preprocess paper"
        )
    return Preprocess(
        height=height,
        width=width,
        resize="whole" if squash else "crop",
        crop_pct=config["crop_pct"],
        interpolation=interpolation,
        mean=mean,
        std=std,
    )


def _affine(preprocess: Preprocess) -> tuple[list[float], list[float]]:
    """Scale and shift a channel that take a byte to its normalised value in one pass: x * scale + shift."""
    scale = [1.0 / (255.0 * s) for s in preprocess.std]
    shift = [-m / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)]
    return scale, shift


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnknownNameError("device", name, ["cpu", "cuda"]) from error
    if device.type not in ("cpu", "cuda"):
        raise UnknownNameError("device", name, ["cpu", "cuda"])
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnavailableError(
            f"no CUDA device for {name!r}: torch {torch.__version__} sees {torch.cuda.device_count()}"
        )
    return device


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    dtype = PRECISIONS[precision]
    if dtype is torch.bfloat16 and device.type == "cuda" and not _computes_bfloat16(device):
        raise UnavailableError(f"{torch.cuda.get_device_name(device)} has no bfloat16; use float16 or float32")
    return dtype


def _computes_bfloat16(device: torch.device) -> bool:
    # Ampere (8.0) is the first with bfloat16 units; below it torch.cuda.is_bf16_supported() counts emulation.
    return torch.cuda.get_device_capability(device) >= (8, 0)
