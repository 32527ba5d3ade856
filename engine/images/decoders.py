"""Decoders by name. ``dali`` is imported only when it is chosen."""

import sys
from collections.abc import Callable

from penultimate.engine.images.decoder import Decoder
from penultimate.engine.images.pillow_decoder import PillowDecoder
from penultimate.store.errors import UnavailableError, UnknownNameError


def make_decoder(name: str, *, num_workers: int) -> Decoder:
    """The decoder of that name; UnknownNameError, or UnavailableError where its library is not installed."""
    if name not in DECODERS:
        raise UnknownNameError("decoder", name, DECODERS)
    return DECODERS[name](num_workers)


def default_decoder() -> str:
    """``dali`` on Linux, for which alone it is published; ``pillow`` elsewhere."""
    return "dali" if sys.platform == "linux" else "pillow"


def _pillow(num_workers: int) -> Decoder:
    return PillowDecoder(num_workers=num_workers)


def _dali(num_workers: int) -> Decoder:
    try:
        from penultimate.engine.images.dali_decoder import DaliDecoder
    except ImportError as error:
        raise UnavailableError(
            f"decoder 'dali' needs the package nvidia-dali-cuda130 (Linux only): install it or choose "
            f"--decoder pillow ({error})"
        ) from error
    return DaliDecoder(num_workers=num_workers)


DECODERS: dict[str, Callable[[int], Decoder]] = {"dali": _dali, "pillow": _pillow}
"""Name -> constructor, from the number of worker threads."""
