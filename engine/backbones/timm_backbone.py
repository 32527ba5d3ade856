"""TimmBackbone makes a frozen feature extractor of any network with timm's interface.

It turns uint8 pixels into float32 penultimate features, the input of the classifier:
``forward_head(forward_features(x), pre_logits=True)``.
"""

import copy
import threading
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penultimate.engine.backbones.architectures.network import Network
from penultimate.engine.backbones.forward import Forward
from penultimate.engine.backbones.weights import LoadedNetwork, load_network
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.devices import DEFAULT_PRECISION, PrecisionName, device_named, dtype_named
from penultimate.store.errors import InputError, MemoryLimitError, UnavailableError, UnknownNameError

# Shapes: B images of a batch, H x W pixels, C = 3 channels, D feature dimensions, K classes of the classifier.

PreprocessKind = Literal["paper", "timm"]
"""Kind of resize: the whole image to the input size, or timm's own resize and centre crop."""


BATCH_TOLERANCE = {"float32": 1e-4, "bfloat16": 2**-8, "float16": 2**-11}
"""Precision -> largest ||f - g|| / ||f|| of an image's features f and g in batches of different sizes.

It is one rounding of the outputs below float32, and in float32 some hundred roundings of 2^-24 for each of tens of
layers.
Measured for EfficientNet-Lite0 on photographs, 2 to 64 against 1: ``benchmarks/results/precision_202611.md``.
"""


class TimmBackbone:
    """A frozen network as a Backbone: name, weights digest, feature dimension, preprocess, and ``embed``.

    Up to rounding, the features of an image do not depend on the batch it comes in: kernels are chosen by batch size
    and may add in another order. ``BATCH_TOLERANCE`` bounds the difference relative to the vector's norm; ``compile``
    fixes the batch size of all passes.
    """

    def __init__(
        self,
        model: Network,
        *,
        name: str,
        weights_digest: str,
        weights_source: str,
        preprocess: Preprocess,
        device: str = "cpu",
        precision: str = DEFAULT_PRECISION,
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
        self.device = device_named(device)
        self.model = model
        self._forward = Forward(model, preprocess, device=self.device, dtype=dtype_named(precision, self.device))
        self._of_thread = threading.local()
        self._largest_pass: int | None = None
        self._halving = threading.Lock()
        self._compile_seconds: float | None = None
        self.feature_dim = self._measured_dim()

    @property
    def num_classes(self) -> int:
        """Number K of classes of the classifier that was loaded; 0 if there is none."""
        return self.model.num_classes

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the whole network, with the classifier."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Source of the weights, device, compilation and largest pass, as values for JSON; complete after embedding."""
        return {
            "weights": self.weights_source,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "compiled": self._forward.fixed_rows is not None,
            "compile_seconds": self._compile_seconds,
            "halved_to": self._largest_pass,
        }

    def compile(self, batch_size: int) -> float:
        """Compile for batches of ``batch_size``, which takes some 20 s and pays from thousands of images on.

        Returns the seconds it took. Raises UnavailableError where torch's compiler cannot work.
        """
        self._compile_seconds = self._forward.compile(batch_size)
        return self._compile_seconds

    def embed(self, images_BHWC: Pixels) -> NDArray[np.float32]:
        """Return the penultimate features (B, D) of RGB images (B, H, W, 3) that are resized, but not yet normalised.

        B may be 0, and several threads may call it at once. A batch that does not fit into memory is halved, and so are
        those after it. Raises InputError for images of another shape or dtype, and MemoryLimitError if one image alone
        does not fit.
        """
        self._check(images_BHWC)
        if not len(images_BHWC):
            return np.empty((0, self.feature_dim), np.float32)
        while True:
            rows = min(len(images_BHWC), self._largest_pass or len(images_BHWC), self._forward.fixed_rows or 1 << 30)
            try:
                starts = range(0, len(images_BHWC), rows)
                return np.concatenate([self._pass(images_BHWC[start : start + rows]) for start in starts])
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve(self._forward.fixed_rows or rows, error)

    def logits(self, images_BHWC: Pixels) -> NDArray[np.float32]:
        """Return the outputs (B, K) of the classifier that came with the weights; raise InputError if they had none."""
        self._check(images_BHWC)
        self._check_classifier()
        return np.asarray(self._forward.logits(self._on_device(images_BHWC)).cpu().numpy(), dtype=np.float32)

    def classify(self, features_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the classifier's float32 outputs (B, K) for features of ``embed``; raise InputError if it has none."""
        self._check_classifier()
        head = self.model.get_classifier()
        heads = head if isinstance(head, tuple) else (head,)  # distilled networks average two
        with torch.inference_mode():
            features = torch.from_numpy(np.require(features_BD, requirements=["C", "W"])).to(self.device)
            outputs = [nn.Module.__call__(one, features) for one in heads]
        return np.asarray(torch.stack(outputs).mean(dim=0).cpu().numpy(), dtype=np.float32)

    def reference(self) -> "TimmBackbone":
        """Return a backbone with the same weights on the CPU, in float32, not compiled: the reference of parity."""
        return TimmBackbone(
            self.model if self.device.type == "cpu" else copy.deepcopy(self.model).cpu(),
            name=self.name,
            weights_digest=self.weights_digest,
            weights_source=self.weights_source,
            preprocess=self.preprocess,
        )

    def _check(self, images_BHWC: Pixels) -> None:
        expected = (self.preprocess.height, self.preprocess.width, 3)
        kind = str(images_BHWC.dtype).removeprefix("torch.")
        if kind != "uint8" or images_BHWC.ndim != 4 or tuple(images_BHWC.shape[1:]) != expected:
            raise InputError(
                f"{self.name} takes uint8 images of shape (B, {expected[0]}, {expected[1]}, 3), "
                f"got {kind} of shape {tuple(images_BHWC.shape)}"
            )

    def _check_classifier(self) -> None:
        if self.num_classes == 0:
            raise InputError(f"{self.name} has no classifier: its weights ({self.weights_source}) hold none")

    def _pass(self, images_BHWC: Pixels) -> NDArray[np.float32]:
        """Copy images to the device, run the network and copy features back; on a GPU on this thread's own stream."""
        if self.device.type == "cpu":
            return np.asarray(self._forward(self._on_device(images_BHWC)).numpy())
        with torch.cuda.stream(self._stream()) as _:
            features = self._forward(self._on_device(images_BHWC))
            host = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(features, non_blocking=True)
            self._stream().synchronize()
        return np.array(host.numpy())  # a copy, so that the pinned memory, which is scarce, is free again

    def _stream(self) -> torch.cuda.Stream:
        if not hasattr(self._of_thread, "stream"):
            self._of_thread.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch does not type it
        stream: torch.cuda.Stream = self._of_thread.stream
        return stream

    def _on_device(self, images_BHWC: Pixels) -> Tensor:
        if isinstance(images_BHWC, Tensor):
            return images_BHWC.to(self.device, non_blocking=True)
        # torch wants memory it may write to; decoders hand out read-only views, which are copied here.
        pixels = torch.from_numpy(np.require(images_BHWC, requirements=["C", "W"]))
        return pixels.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else pixels

    def _halve(self, rows: int, error: Exception) -> None:
        """Limit all further passes to half of ``rows``, unless another thread has done so already."""
        if rows == 1:
            raise MemoryLimitError(
                f"not enough memory on {self.device} for one image through {self.name} "
                f"({' '.join(str(error).split())[:160]})"
            ) from error
        with self._halving:
            if self._largest_pass is not None and self._largest_pass < rows:
                return
            self._largest_pass = rows // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if self._forward.fixed_rows is not None:
                self.compile(self._largest_pass)

    def _measured_dim(self) -> int:
        black = torch.zeros((1, self.preprocess.height, self.preprocess.width, 3), dtype=torch.uint8)
        features = self._forward(black.to(self.device))
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
    precision: PrecisionName = DEFAULT_PRECISION,
    seed: int = 0,
) -> TimmBackbone:
    """Load the network ``name`` with ``weights`` (``timm``, ``package``, ``random`` or a file), ready to embed.

    Raises what ``load_network`` and ``TimmBackbone`` raise.
    """
    dtype_named(precision, device_named(device))  # before a download, not after
    network = load_network(name, weights=weights, seed=seed)
    return backbone_of(network, preprocess=preprocess, device=device, precision=precision)


def backbone_of(
    network: LoadedNetwork, *, preprocess: PreprocessKind, device: str, precision: PrecisionName
) -> TimmBackbone:
    """Make a TimmBackbone of a loaded network; raise what ``TimmBackbone`` raises."""
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
    """Return the Preprocess of ``model``, from the configuration that came with its weights.

    ``paper``: the whole image to the input size, bicubic. ``timm``: timm's own evaluation (fraction that the crop
    keeps, interpolation). Mean and standard deviation are the network's in both. Raises UnavailableError where timm's
    evaluation of the network is not offered here.
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
            f"and crop fraction {config['crop_pct']}, which is not offered; use --preprocess paper"
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


def _is_out_of_memory(error: Exception) -> bool:
    # torch's CPU allocator raises a plain RuntimeError, known by its text alone.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
