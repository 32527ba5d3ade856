"""Look up devices and precisions by name, and refuse those that this machine lacks."""

from typing import Literal

import torch

from penultimate.engine.runtime.capabilities import SWITCH, computes_natively, cpu_class, processor_class
from penultimate.store.errors import UnavailableError, UnknownNameError

PrecisionName = Literal["float32", "tf32", "bfloat16", "float16"]

PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Name of a precision in which networks compute -> dtype of their convolutions and products. Where that is below
float32 they run under autocast, and weights stay float32. ``float32`` is IEEE float32 everywhere; ``tf32``, on GPUs
alone, rounds the operands of convolutions and products to 10 bits of mantissa (``float32_arithmetic``), as torch does
to those of convolutions by default."""

DEFAULT_PRECISION: PrecisionName = "float32"
"""Precision of networks by default: the one that every processor has, so that the same command gives the same key and
features on any machine.

bfloat16 is the faster choice where there are units for it, and cost no accuracy on Caltech-101 or CIFAR-10. But it
moved features by 3 % on the one and 7 % on the other, and 0.6 % and 2.2 % of test predictions at the same strength,
5.5 % where it led to another choice (``benchmarks/results/precision_202611.md``). So it is an option, not the default.
"""


def device_named(name: str) -> torch.device:
    """Return the device ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises UnknownNameError for any other name, and UnavailableError where there is no such GPU.
    """
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


def dtype_named(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of ``precision``.

    Raises UnknownNameError for an unknown one, and UnavailableError where ``device`` would only emulate it.
    """
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if not computes_natively(precision, device):
        others = " or ".join(name for name in PRECISIONS if computes_natively(name, device))
        if precision == "tf32":
            raise UnavailableError(
                f"tf32 is a precision of NVIDIA GPUs from Ampere on, which {_described(device)} is not; "
                f"use --precision {others}"
            )
        raise UnavailableError(
            f"{_described(device)} has no {precision} units and would emulate them slowly; use --precision {others}"
        )
    return PRECISIONS[precision]


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    in_force = cpu_class()
    return "this processor" if in_force == processor_class() else f"this processor, taken for {in_force} ({SWITCH}),"
