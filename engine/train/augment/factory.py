"""Augmenters by name; the library of one is imported only when it is chosen."""

from collections.abc import Callable

import torch

from penultimate.engine.train.augment.augmenter import Augmenter
from penultimate.store.errors import UnavailableError, UnknownNameError


def make_augmenter(name: str, *, num_workers: int, device: torch.device) -> Augmenter:
    """Build the augmenter of that name for the device that trains, with ``num_workers`` threads.

    Raises UnknownNameError, or UnavailableError where its library is not installed.
    """
    if name not in AUGMENTERS:
        raise UnknownNameError("augmenter", name, AUGMENTERS)
    return AUGMENTERS[name](num_workers, device)


def _pillow(num_workers: int, device: torch.device) -> Augmenter:
    from penultimate.engine.train.augment.pillow import PillowAugmenter

    return PillowAugmenter(num_workers=num_workers)


def _dali(num_workers: int, device: torch.device) -> Augmenter:
    try:
        from penultimate.engine.train.augment.dali import DaliAugmenter
    except ImportError as error:
        raise UnavailableError(
            f"augmenter 'dali' needs the package nvidia-dali-cuda130 (Linux only): install it or choose "
            f"--decoder pillow ({error})"
        ) from error
    return DaliAugmenter(num_workers=num_workers, device=device)


AUGMENTERS: dict[str, Callable[[int, torch.device], Augmenter]] = {"dali": _dali, "pillow": _pillow}
"""Name -> constructor, which takes the number of threads and the device that trains."""
