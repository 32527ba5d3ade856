"""Pin the arithmetic of float32 convolutions and products: IEEE float32, or TF32 where that was asked for by name.

torch's defaults and settings decide it for the whole process: convolutions on a GPU are TF32 unless told otherwise,
``torch.set_float32_matmul_precision`` and ``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1`` make products TF32 on a GPU and
bfloat16 on a CPU. Features of one key must not depend on any of them.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


class _Arithmetic:
    """The arithmetic that all threads which compute at the moment agree on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_holders = 0
        self._tf32 = False
        self._restore: Callable[[], None] = lambda: None

    def take(self, tf32: bool) -> None:
        """Set the arithmetic, once no thread computes in the other."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_holders == 0 or self._tf32 == tf32)
            if self._num_holders == 0:
                self._restore = _set(tf32)
                self._tf32 = tf32
            self._num_holders += 1

    def release(self) -> None:
        """Restore the caller's settings once the last thread has finished."""
        with self._changed:
            self._num_holders -= 1
            if self._num_holders == 0:
                self._restore()
                self._changed.notify_all()


_arithmetic = _Arithmetic()


@contextmanager
def float32_arithmetic(*, tf32: bool = False) -> Iterator[None]:
    """Compute float32 convolutions and products in IEEE float32 within, or on a GPU in TF32.

    torch's settings are the caller's again when the last thread has left. TF32 rounds operands to 10 bits of mantissa.
    Kernels are chosen as they are launched, so that the context need not outlast them. Any number of threads may be
    within; one that asks for the other arithmetic waits until all have left, and so must not be within itself.
    """
    _arithmetic.take(tf32)
    try:
        yield
    finally:
        _arithmetic.release()


def _settings() -> list[Any]:
    """Return torch's objects that have a ``fp32_precision``, those of CUDA first."""
    backends: Any = torch.backends  # torch types only some of them
    cuda = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    return [*cuda, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]


def _set(tf32: bool) -> Callable[[], None]:
    """Set the arithmetic for the process; return a function that restores what was set before.

    torch keeps an older set of flags beside the newer, its compiler reads both, and reading an older one raises where
    the two disagree: so both are set, and warnings that the older are to go are not passed on.
    """
    settings = _settings()
    before = [setting.fp32_precision for setting in settings]
    products, convolutions = "highest", True  # torch's defaults of the older flags
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(RuntimeError):  # the caller had set the newer ones alone: these are as they were
            products = torch.get_float32_matmul_precision()
        with suppress(RuntimeError):
            convolutions = torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
    for setting, name in zip(settings, 3 * ["tf32" if tf32 else "ieee"] + 3 * ["ieee"], strict=True):
        setting.fp32_precision = name

    def restore() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.allow_tf32 = convolutions
        for setting, name in zip(settings, before, strict=True):
            setting.fp32_precision = name

    return restore
