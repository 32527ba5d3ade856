"""Make decoders by name; the library of ``dali`` is imported only when that is chosen."""

import sys
from collections.abc import Callable
from typing import Literal

from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.store.errors import UnavailableError, UnknownNameError

DecoderName = Literal["dali", "dali-gpu", "pillow"]


def make_decoder(name: str, *, num_workers: int) -> Decoder:
    """Make the decoder of that name.

    Raises UnknownNameError for another name and UnavailableError where its library is not installed.
    """
    if name not in DECODERS:
        raise UnknownNameError("decoder", name, DECODERS)
    return DECODERS[name](num_workers)


def default_decoder(device: str = "cpu") -> str:
    """Return the name of the decoder used by default for networks on ``device``.

    On Linux, where DALI is published, that is ``dali-gpu`` for a GPU and ``dali`` otherwise; elsewhere ``pillow``.
    """
    if device.startswith("cuda") and sys.platform == "linux":
        return "dali-gpu"
    return "dali" if sys.platform == "linux" else "pillow"


def _pillow(num_workers: int) -> Decoder:
    return PillowDecoder(num_workers=num_workers)


def _dali(num_workers: int) -> Decoder:
    try:
        from penultimate.engine.images.decode.dali import DaliDecoder
    except ImportError as error:
        raise UnavailableError(
            f"decoder 'dali' needs the package nvidia-dali-cuda130 (Linux only): install it or choose "
            f"--decoder pillow ({error})"
        ) from error
    return DaliDecoder(num_workers=num_workers)


def _dali_gpu(num_workers: int) -> Decoder:
    _dali(num_workers)  # names the package where it is not installed
    import torch

    from penultimate.engine.images.decode.dali_gpu import DaliGpuDecoder

    if not torch.cuda.is_available():
        raise UnavailableError(
            "decoder 'dali-gpu' needs a CUDA device, and torch sees none; choose --decoder dali (and not --device cuda)"
        )
    return DaliGpuDecoder(num_workers=num_workers)


DECODERS: dict[str, Callable[[int], Decoder]] = {"dali": _dali, "dali-gpu": _dali_gpu, "pillow": _pillow}
"""Name of a decoder -> function that makes it from the number of worker threads."""
