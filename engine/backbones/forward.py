"""Forward is a network as one function from pixels to the features of every readout, eager or compiled."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from penultimate.engine.backbones.architectures.network import Network, to_channels_last
from penultimate.engine.backbones.cast_once import with_weights_cast_once
from penultimate.engine.backbones.readouts.readout_pass import ForwardPass
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.capabilities import has_compiler, has_onednn
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.store.errors import UnavailableError

# Shapes: B images of a batch, H x W pixels, C = 3 channels, D feature dimensions.


class Forward:
    """A function from uint8 pixels (B, H, W, 3) on the network's device to float32 features (B, D) by name of readout.

    The network runs channels-last, and under autocast below float32. float32 is IEEE float32 whatever torch's settings
    are, unless ``tf32`` was asked for. Once it is compiled, every pass has the same number of rows: smaller batches are
    filled up with black images whose features are dropped, so that one graph serves all and an image's features do not
    depend on how many others came with it.
    """

    def __init__(
        self,
        model: Network,
        preprocess: Preprocess,
        forward_pass: ForwardPass,
        *,
        device: torch.device,
        dtype: torch.dtype,
        tf32: bool = False,
    ) -> None:
        """Move ``model`` to ``device``; ``tf32`` lets its float32 convolutions and products be TF32.

        ``forward_pass`` gives the readouts of ``model``.
        """
        self.model = model.eval().requires_grad_(False).to(device)
        to_channels_last(self.model)
        self._pass = forward_pass
        self._device = device
        self._dtype = dtype
        self._tf32 = tf32
        # Scale and shift of a channel take a byte to its normalised value in one pass: x * scale + shift.
        mean_C, std_C = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (preprocess.mean, preprocess.std))
        self._scale_C = 1.0 / (255.0 * std_C)
        self._shift_C = -mean_C / std_C
        self._size = (preprocess.height, preprocess.width, 3)
        self._network = self._cast_once() if dtype != torch.float32 else self.model
        self._run: Callable[[Tensor], dict[str, Tensor]] = self.features
        self.fixed_rows: int | None = None
        """Number B of images in every pass; None while the network is not compiled."""

    def __call__(self, pixels_BHWC: Tensor) -> dict[str, Tensor]:
        """Return each readout (B, D) of one pass; once compiled, B must be at most ``fixed_rows``."""
        rows = len(pixels_BHWC)
        if self.fixed_rows is not None and rows < self.fixed_rows:
            # This tensor is made outside inference mode, as full batches are: each kind would have a graph of its own.
            filled = pixels_BHWC.new_zeros((self.fixed_rows, *self._size))
            filled[:rows] = pixels_BHWC
            pixels_BHWC = filled
        with torch.inference_mode(), float32_arithmetic(tf32=self._tf32):
            return {name: features[:rows] for name, features in self._run(pixels_BHWC).items()}

    def compile(self, rows: int) -> float:
        """Compile for passes of ``rows`` images, run one, and return the seconds that took.

        In float32, and on CPUs below it, weights are frozen into the graph: batch norms are folded into convolutions
        and weights laid out as the kernels want them. Below float32 the folding is ours (``folding``), since torch's
        moves features past the parity check.

        Raises UnavailableError without a C++ compiler, which torch's compiler needs.
        """
        if not has_compiler():
            raise UnavailableError("compiling needs a C++ compiler (g++ or clang++), which is not here; --no-compile")
        from torch._inductor import config as inductor  # the compiler takes seconds to import

        cpu = self._device.type == "cpu"
        started = time.perf_counter()
        self.fixed_rows = rows
        frozen = self._dtype == torch.float32
        folding: AbstractContextManager[None] = nullcontext()
        features = self.features
        if cpu and not frozen and has_onednn(self._dtype):
            from penultimate.engine.backbones.folding import folding_once_rounded  # the compiler again

            frozen, folding = True, folding_once_rounded()
            features = self._features_of_float32  # batch norms are folded into weights that are not rounded yet
        # On a CPU the whole graph is one C++ call, which lets go of the interpreter lock: replicas run side by side.
        self._run = torch.compile(features, dynamic=False, options={"freezing": frozen, "cpp_wrapper": cpu})
        # The option alone freezes nothing: the tracer reads the global setting and else takes weights for inputs.
        with inductor.patch(freezing=frozen), folding:
            self(torch.zeros((rows, *self._size), dtype=torch.uint8, device=self._device))
        if not cpu:
            torch.cuda.synchronize(self._device)  # folded weights were made on this stream; passes run on others
        return time.perf_counter() - started

    def features(self, pixels_BHWC: Tensor) -> dict[str, Tensor]:
        """Return each readout (B, D) of one uncompiled pass."""
        return self._features_of(self._network, pixels_BHWC, self._pass)

    def _features_of_float32(self, pixels_BHWC: Tensor) -> dict[str, Tensor]:
        return self._features_of(self.model, pixels_BHWC, self._pass)

    def _features_of(self, network: Network, pixels_BHWC: Tensor, forward_pass: ForwardPass) -> dict[str, Tensor]:
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return forward_pass(network, self._normalised(pixels_BHWC))

    @torch.inference_mode()
    def uncompiled(self, pixels_BHWC: Tensor, forward_pass: ForwardPass) -> dict[str, Tensor]:
        """Return what another pass of the same network gives of these pixels, uncompiled."""
        with float32_arithmetic(tf32=self._tf32):
            return self._features_of(self._network, pixels_BHWC, forward_pass)

    def _cast_once(self) -> Network:
        """Return the network with its weights cast once, if its features are then the same to the bit on a pass."""
        cast = with_weights_cast_once(self.model, self._dtype)
        pixels_BHWC = torch.arange(3 * self._size[0] * self._size[1]).to(torch.uint8).view(1, *self._size)
        with torch.inference_mode(), float32_arithmetic(tf32=self._tf32):
            try:
                expected, found = (
                    self._features_of(network, pixels_BHWC.to(self._device), self._pass)
                    for network in (self.model, cast)
                )
            except Exception:  # a network that is no backbone says so where its dimension is measured
                return self.model
        same = all(torch.equal(expected[name].nan_to_num(), found[name].nan_to_num()) for name in expected)
        return cast if same else self.model

    def _normalised(self, images_BHWC: Tensor) -> Tensor:
        """Return (x / 255 - mean) / std, (B, C, H, W) float32; BHWC memory read as BCHW is channels-last already."""
        pixels_BCHW = images_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.preserve_format)
        return pixels_BCHW.mul_(self._scale_C).add_(self._shift_C)
