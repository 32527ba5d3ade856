"""Run a module in float64 on the CPU, whatever precision its own code asks for.

In float64 the order of sums, which differs between processors and numbers of threads, moves features by some 1e-15 of
their norm (``tests/engine/backbones/own/test_fingerprint.py`` measures it); in float32 by 1e-6.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# Shapes: B images of a batch, C channels, H x W pixels or places of a map.

_LOWER = (torch.float32, torch.float16, torch.bfloat16)
_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.conv2d.default)


@contextmanager
def weights_in_float64(module: nn.Module) -> Iterator[None]:
    """Within the context, let parameters and buffers be float64; afterwards they are the very tensors they were."""
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    before, default = [tensor.data for tensor in tensors], torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        for tensor in tensors:
            tensor.data = tensor.data.double()
        yield
    finally:
        torch.set_default_dtype(default)
        for tensor, data in zip(tensors, before, strict=True):
            tensor.data = data


def exact_pass(module: nn.Module, images_BCHW: Tensor) -> Any:
    """Return what ``module``, within ``weights_in_float64``, gives for float64 images, computed in float64 alone."""
    with torch.inference_mode(), _InFloat64():  # type: ignore[no-untyped-call]  # torch does not type it
        return module(images_BCHW)


class _InFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not type it
    """Within this mode, every operator that is given or asked for a lower precision gets float64 instead.

    So a module that computes some layers in float32 on purpose, as many do with norms and softmax, gives float64 too.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map(_raised, (args, dict(kwargs or {})))
        if func in _CONVOLUTIONS:
            given = _bound(func, args, kwargs)
            if _is_depthwise(given):
                return _depthwise(**given)
        return func(*args, **kwargs)


def _raised(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype in _LOWER else value
    return torch.float64 if isinstance(value, torch.dtype) and value in _LOWER else value


def _bound(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return an operator's arguments by name, its defaults included."""
    arguments = func._schema.arguments
    defaults = {each.name: each.default_value for each in arguments}
    return defaults | dict(zip(defaults, args, strict=False)) | dict(kwargs)


def _is_depthwise(given: Mapping[str, Any]) -> bool:
    weight = given["weight"]
    return given["groups"] == weight.shape[0] > 1 and weight.ndim == 4 and not given.get("transposed", False)


def _depthwise(
    *,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    **_: Any,
) -> Tensor:
    """Convolve each channel (B, C, H, W) with its own kernel (C, 1, h, w), as a sum over the kernel's places.

    torch has no kernel for it in float64 and does it a channel at a time: EfficientNet-B0 took 11 s for two images.
    """
    (down, across), (tall, wide) = (stride * 2)[:2], (dilation * 2)[:2]
    above, beside = (padding * 2)[:2]
    padded = pad(input, (beside, beside, above, above))
    height, width = weight.shape[2:]
    rows = (padded.shape[2] - tall * (height - 1) - 1) // down + 1
    columns = (padded.shape[3] - wide * (width - 1) - 1) // across + 1
    total = input.new_zeros(len(input), len(weight), rows, columns)
    for y in range(height):
        for x in range(width):
            from_y, from_x = y * tall, x * wide
            seen = padded[:, :, from_y : from_y + rows * down : down, from_x : from_x + columns * across : across]
            total += seen[:, :, :rows, :columns] * weight[:, 0, y, x].view(-1, 1, 1)
    return total if bias is None else total + bias.view(-1, 1, 1)
