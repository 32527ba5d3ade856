"""TimmBackbone makes a frozen feature extractor of any network with timm's interface.

It turns uint8 pixels into float32 features: the penultimate ones, the input of the classifier, which are
``forward_head(forward_features(x), pre_logits=True)``, and other readouts of the same pass.
"""

import copy
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.engine.backbones.architectures.network import Network
from penultimate.engine.backbones.classifier import num_classes_of, refuse_token_encoder
from penultimate.engine.backbones.forward import Forward
from penultimate.engine.backbones.loading.weights import LoadedNetwork, load_network
from penultimate.engine.backbones.own.own_network import OwnNetwork
from penultimate.engine.backbones.readouts.network_readouts import readouts_of
from penultimate.engine.backbones.readouts.readout import Readout, chosen
from penultimate.engine.backbones.readouts.readout_pass import LOGITS, ReadoutPass
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.devices import DEFAULT_PRECISION, PrecisionName, device_named, dtype_named
from penultimate.store.errors import InputError, MemoryLimitError, UnavailableError, UnknownNameError
from penultimate.store.key import PENULTIMATE

# Shapes: B images of a batch, H x W pixels, C = 3 channels, D feature dimensions, K classes of the classifier.

PreprocessKind = Literal["paper", "timm", "paper-exif", "timm-exif"]
"""Kind of resize: the whole image, or timm's own resize and centre crop; ``-exif`` first rotates as EXIF says."""


BATCH_TOLERANCE = {"float32": 1e-4, "tf32": 2**-11, "bfloat16": 2**-8, "float16": 2**-11}
"""Precision -> largest ||f - g|| / ||f|| of an image's features f and g in batches of different sizes.

It is one rounding of the outputs below float32, for TF32 of its operands, which is as fine as float16's; and in float32
some hundred roundings of 2^-24 for each of tens of layers.
Measured for EfficientNet-Lite0 on photographs, 2 to 64 against 1: ``benchmarks/results/precision_202611.md``.
"""


class TimmBackbone:
    """A frozen network as a Backbone: name, weights digest, readouts and their dimensions, preprocess, and ``embed``.

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
        readouts: Sequence[str] = (PENULTIMATE,),
        device: str = "cpu",
        precision: str = DEFAULT_PRECISION,
    ) -> None:
        """Move ``model`` to ``device`` and run it once to learn the dimension of each of its ``readouts``.

        Raises UnavailableError for a device or precision that is not here, InputError for a readout that the network
        does not have, and for a network whose output is not one vector an image.
        """
        refuse_token_encoder(model, name)
        self.name = name
        self.weights_digest = weights_digest
        self.weights_source = weights_source
        self.preprocess = preprocess
        self.precision = precision
        self.device = device_named(device)
        self.model = model
        dtype = dtype_named(precision, self.device)
        self._readouts = chosen(readouts_of(model), readouts, network=name)
        forward_pass = ReadoutPass(model, self._readouts)
        self._forward = Forward(
            model, preprocess, forward_pass, device=self.device, dtype=dtype, tf32=precision == "tf32"
        )
        self._of_thread = threading.local()
        self._largest_pass: int | None = None
        self._halving = threading.Lock()
        self._compile_seconds: float | None = None
        self.feature_dims = self._measured_dims()
        if self.device.type == "cuda":
            # Weights were laid out on this thread's stream; passes run on streams of their own, which wait for none.
            torch.cuda.synchronize(self.device)

    @property
    def num_classes(self) -> int:
        """Number K of classes of the classifier that was loaded; 0 if there is none."""
        return num_classes_of(self.model)

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

    def embed(self, images_BHWC: Pixels) -> dict[str, NDArray[np.float32]]:
        """Return each readout's features (B, D) of RGB images (B, H, W, 3) that are resized, but not yet normalised.

        B may be 0, and several threads may call it at once. A batch that does not fit into memory is halved, and so are
        those after it. Raises InputError for images of another shape or dtype, and MemoryLimitError if one image alone
        does not fit.
        """
        return self._in_passes(images_BHWC, self._forward, widths=self.feature_dims)

    def classify(self, images_BHWC: Pixels) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        """Return the features by readout of ``embed``, and the scores (B, K) of the network's own classifier.

        The scores are of ``forward_head``, never of a layer called on features: some networks classify maps, tokens or
        several scales beside the pooled features. They are computed uncompiled. InputError if there is no classifier.
        """
        features, logits_BK = self._with_logits(images_BHWC, self._readouts)
        return (features if self._forward.fixed_rows is None else self.embed(images_BHWC)), logits_BK

    def logits(self, images_BHWC: Pixels) -> NDArray[np.float32]:
        """Return the outputs (B, K) of the classifier that came with the weights; raise InputError if they had none."""
        return self._with_logits(images_BHWC, ())[1]

    def reference(self) -> "TimmBackbone":
        """Return a backbone with the same weights on the CPU, in float32, not compiled: the reference of parity."""
        return TimmBackbone(
            self.model if self.device.type == "cpu" else copy.deepcopy(self.model).cpu(),
            name=self.name,
            weights_digest=self.weights_digest,
            weights_source=self.weights_source,
            preprocess=self.preprocess,
            readouts=tuple(self.feature_dims),
        )

    def _check(self, images_BHWC: Pixels) -> None:
        expected = (self.preprocess.height, self.preprocess.width, 3)
        kind = str(images_BHWC.dtype).removeprefix("torch.")
        if kind != "uint8" or images_BHWC.ndim != 4 or tuple(images_BHWC.shape[1:]) != expected:
            raise InputError(
                f"{self.name} takes uint8 images of shape (B, {expected[0]}, {expected[1]}, 3), "
                f"got {kind} of shape {tuple(images_BHWC.shape)}"
            )

    def _with_logits(
        self, images_BHWC: Pixels, readouts: Sequence[Readout]
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        if self.num_classes == 0:
            raise InputError(f"{self.name} has no classifier: its weights ({self.weights_source}) hold none")
        forward_pass = ReadoutPass(self.model, readouts, with_logits=True)
        run = partial(self._forward.uncompiled, forward_pass=forward_pass)
        found = self._in_passes(images_BHWC, run, widths={**self.feature_dims, LOGITS: self.num_classes})
        return found, found.pop(LOGITS)

    def _in_passes(
        self, images_BHWC: Pixels, run: Callable[[Tensor], dict[str, Tensor]], *, widths: Mapping[str, int]
    ) -> dict[str, NDArray[np.float32]]:
        """Run ``run`` over all images in passes as large as fit; return its outputs, (B, width) each."""
        self._check(images_BHWC)
        if not len(images_BHWC):
            return {name: np.empty((0, width), np.float32) for name, width in widths.items()}
        while True:
            rows = min(len(images_BHWC), self._largest_pass or len(images_BHWC), self._forward.fixed_rows or 1 << 30)
            try:
                starts = range(0, len(images_BHWC), rows)
                passes = [self._pass(images_BHWC[start : start + rows], run) for start in starts]
                return {name: np.concatenate([each[name] for each in passes]) for name in passes[0]}
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve(self._forward.fixed_rows or rows, error)

    def _pass(self, images_BHWC: Pixels, run: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, NDArray[np.float32]]:
        """Copy images to the device, run, and copy outputs back; on a GPU in order on this thread's own stream."""
        if self.device.type == "cpu":
            return {name: np.asarray(output.numpy()) for name, output in run(self._on_device(images_BHWC)).items()}
        with torch.cuda.stream(self._stream()) as _:
            outputs = run(self._on_device(images_BHWC))
            host = {name: _pinned_copy(output) for name, output in outputs.items()}
            self._stream().synchronize()
        # Copies, so that the pinned memory, which is scarce, is free again.
        return {name: np.array(output.numpy()) for name, output in host.items()}

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

    def _measured_dims(self) -> dict[str, int]:
        black = torch.zeros((1, self.preprocess.height, self.preprocess.width, 3), dtype=torch.uint8)
        try:
            features = self._forward(black.to(self.device))
        except Exception as error:  # networks raise whatever their layers do on an input they cannot take
            if _is_out_of_memory(error):
                raise
            raise InputError(no_backbone(self.name, self.preprocess, error)) from error
        dims = {name: vector_dim(each, self.name, readout=name) for name, each in features.items()}
        if PENULTIMATE in dims and len(dims) > 1:
            self._check_penultimate(features[PENULTIMATE], black.to(self.device))
        return dims

    def _check_penultimate(self, found_BD: Tensor, pixels_BHWC: Tensor) -> None:
        """Raise InputError where timm's pass with intermediates does not end in the penultimate features."""
        alone = ReadoutPass(self.model, [readout for readout in self._readouts if readout.name == PENULTIMATE])
        expected_BD = self._forward.uncompiled(pixels_BHWC, alone)[PENULTIMATE]
        distance = float((found_BD - expected_BD).norm() / expected_BD.norm().clamp_min(1e-30))
        if not distance <= BATCH_TOLERANCE[self.precision]:
            raise InputError(
                f"timm's forward_intermediates of {self.name} does not end in its penultimate features (distance "
                f"{distance:.1g}): take {PENULTIMATE} in one extraction and the other readouts in another"
            )


def _pinned_copy(output: Tensor) -> Tensor:
    """Begin to copy an output from the GPU, in order on this thread's stream, into pinned memory."""
    host = torch.empty(output.shape, dtype=torch.float32, pin_memory=True)
    return host.copy_(output, non_blocking=True)


def vector_dim(features: Tensor, name: str, *, readout: str = PENULTIMATE) -> int:
    """D of the features (B, D) that a network gave; InputError if that is not one vector an image."""
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(
            f"the {readout} output of {name} is {shape}; expected (B, D), one vector an image: this network cannot "
            "be a backbone"
        )
    return int(features.shape[1])


def no_backbone(name: str, preprocess: Preprocess, error: Exception) -> str:
    """One line: this network's forward pass fails on images of its own input size."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return (
        f"{name} cannot be a backbone: it fails on an image of {preprocess.height} x {preprocess.width} pixels, the "
        f"input size timm gives it ({reason})"
    )


def load_backbone(
    name: str,
    *,
    weights: str = "timm",
    preprocess: PreprocessKind = "paper",
    readouts: Sequence[str] = (PENULTIMATE,),
    device: str = "cpu",
    precision: PrecisionName = DEFAULT_PRECISION,
    seed: int = 0,
) -> TimmBackbone:
    """Load a pretrained network as a frozen feature extractor.

    Parameters
    ----------
    name
        A timm name, ``arch`` or ``arch.tag``, ``hf-hub:owner/name``, or ``package.module:function`` of your own
        (``docs/how-to/own-networks.md``).
    weights
        ``timm`` (downloaded from its hub), ``package`` (an installed weight package), ``random``, a ``.safetensors``
        or ``.pth`` file, or the folder of a run of ``train``.
    preprocess
        ``paper``: the whole image to the network's input. ``timm``: its own resize and centre crop. ``paper-exif`` and
        ``timm-exif``: the same, of the image turned upright by its EXIF orientation.
    readouts
        Vectors that are kept of a pass, by name or glob: ``penultimate``, ``cls``, ``patch-mean``, ``cls+patch-mean``,
        ``last4``, ``block:I``, ``stage:I``, ``blocks``; ``penultimate models NAME`` lists what a network has.
    device
        ``cpu`` or ``cuda``.
    precision
        ``float32``, ``bfloat16`` or ``float16``, or on a GPU ``tf32``.
    seed
        Seed of random weights.

    Returns
    -------
    TimmBackbone
        ``embed(images_BHWC)`` turns uint8 RGB images (B, H, W, 3), resized as ``preprocess`` says, into features
        (B, D) float32 by name of readout, and normalises them itself. ``feature_dims`` is D by name of readout,
        ``preprocess`` the Preprocess, ``model`` the torch module.

    Raises
    ------
    UnknownNameError
        If there is no such network; the message gives the nearest names.
    UnavailableError
        If the device, the precision or the weights are not to be had here.
    InputError
        If the weights do not fit the network, it gives no one vector an image, or it has not one of the readouts.

    Examples
    --------
    >>> import numpy as np, penultimate
    >>> backbone = penultimate.load_backbone("test_vit", weights="random", readouts=["penultimate", "last4"])
    >>> backbone.feature_dims, backbone.preprocess.height
    ({'penultimate': 64, 'last4': 320}, 160)
    >>> backbone.embed(np.zeros((2, 160, 160, 3), np.uint8))["penultimate"].shape
    (2, 64)
    """
    dtype_named(precision, device_named(device))  # before a download, not after
    network = load_network(name, weights=weights, seed=seed)
    for doubt in network.warnings:
        warnings.warn(f"{name}: {doubt}", stacklevel=2)
    return backbone_of(network, preprocess=preprocess, readouts=readouts, device=device, precision=precision)


def backbone_of(
    network: LoadedNetwork,
    *,
    preprocess: PreprocessKind,
    readouts: Sequence[str] = (PENULTIMATE,),
    device: str,
    precision: PrecisionName,
) -> TimmBackbone:
    """Make a TimmBackbone of a loaded network; raise what ``TimmBackbone`` raises."""
    return TimmBackbone(
        network.model,
        name=network.name,
        weights_digest=network.digest,
        weights_source=network.source,
        preprocess=preprocess_of(network.model, preprocess),
        readouts=readouts,
        device=device,
        precision=precision,
    )


def preprocess_of(model: Network, kind: PreprocessKind) -> Preprocess:
    """Return the Preprocess of ``model``, from the configuration that came with its weights.

    ``paper``: the whole image to the input size, bicubic. ``timm``: timm's own evaluation (crop fraction,
    interpolation). Mean and standard deviation are the network's in both. ``paper-exif`` and ``timm-exif`` are the same
    of the image turned upright by its EXIF orientation. A network of the user's brings its own Preprocess, of which
    ``kind`` changes the orientation alone.
    """
    from timm.data.config import resolve_model_data_config

    if kind not in get_args(PreprocessKind):
        raise UnknownNameError("preprocess", kind, get_args(PreprocessKind))
    if isinstance(model, OwnNetwork):
        return model.preprocess_for(kind)
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    _, height, width = config["input_size"]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    upright = kind.endswith("-exif")
    if kind.startswith("paper"):
        return Preprocess(height=height, width=width, resize="whole", mean=mean, std=std, exif_orientation=upright)
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
        exif_orientation=upright,
    )


def _is_out_of_memory(error: Exception) -> bool:
    # torch's CPU allocator raises a plain RuntimeError, known by its text alone.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
