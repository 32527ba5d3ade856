"""Compute depthwise convolutions in float32 while a network trains below float32 on a CPU.

torch's bfloat16 backward pass of a strided or 5 x 5 depthwise convolution falls back to slow code on the CPU it was
measured on: 1.34 of the 2.06 seconds of an update of EfficientNet-Lite0 at batch 32. With these layers in float32,
casts included, an update takes 1.1 seconds (benchmarks/results/train_speed_cpu_202611.md).
"""

from types import MethodType

import torch
from torch import Tensor, nn

# Shapes: B images, C channels in, K channels out, H x W and h x w pixels.


def compute_depthwise_in_float32(network: nn.Module) -> None:
    """Change these layers in place. Their inputs, their outputs and their evaluation keep the precision they have."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            # A method, so that deepcopy binds that of a copy to the copy.
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]  # one instance's, on purpose


def _forward(module: nn.Conv2d, pixels_BCHW: Tensor) -> Tensor:
    plain = type(module).forward  # timm's have padding of their own
    if not torch.is_grad_enabled():
        return plain(module, pixels_BCHW)
    with torch.autocast("cpu", enabled=False):
        return plain(module, pixels_BCHW.float()).to(torch.get_autocast_dtype("cpu"))
