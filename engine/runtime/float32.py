"""Pin float32 products to IEEE float32, whatever the process or its environment allows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def ieee_float32() -> Iterator[None]:
    """Multiply float32 matrices in float32 within, on GPUs and CPUs, and leave torch's settings as they were.

    ``torch.set_float32_matmul_precision``, ``allow_tf32`` and ``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1`` let torch round
    the operands to TF32 (10 bits of mantissa) on a GPU, and to bfloat16 (7 bits) on a CPU that has units for it. A
    certificate counts on the rounding of float32 (23 bits). The settings are those of the process: what other threads
    multiply meanwhile is float32 as well.
    """
    settings = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]  # of torch
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
