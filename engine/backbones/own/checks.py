"""Run a network of the user's on fixed images, and refuse one whose features of an image are not that image's alone."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from penultimate.engine.backbones.own.exact import exact_pass, weights_in_float64
from penultimate.engine.backbones.own.fixed_images import fixed_image
from penultimate.engine.backbones.own.function import telling_whose
from penultimate.engine.backbones.own.own_network import OwnNetwork
from penultimate.engine.images.preprocess import Preprocess
from penultimate.store.errors import InputError
from penultimate.store.key import PENULTIMATE

# Shapes: B fixed images, H x W pixels, D feature dimensions.

_TOLERANCE = 1e-9
"""Largest ||f - g|| / ||f|| of two passes in float64 that count as equal: their rounding is below 1e-13."""

Features = dict[str, Tensor]
"""Vectors (B, D) float64 by name of readout."""


def checked_features(network: OwnNetwork, name: str) -> Features:
    """Return the network's features of two fixed images, computed in float64.

    Raises InputError for a network in training mode, one that fails, one that gives anything but vectors (B, D), and
    for features that are not finite, all 0, drawn at random, dependent on the rest of the batch, or on what other
    threads run through the network at the same time.
    """
    _refuse_training_mode(network, name)
    view = network.preprocess
    images_BCHW = normalised(np.stack([fixed_image(view.height, view.width, number) for number in (0, 1)]), view)
    with weights_in_float64(network):

        def run(images_BCHW: Tensor) -> Features:
            with telling_whose(name, f"fails on images of {view.height} x {view.width} pixels"):
                return _vectors(exact_pass(network, images_BCHW), rows=len(images_BCHW), name=name)

        began = time.monotonic()
        together = run(images_BCHW)
        _refuse_numbers(together, name)
        alone = _in_turns(run, network, images_BCHW, patience=1.0 + 10 * (time.monotonic() - began))
        expected = {readout: features[:1] for readout, features in together.items()}
        if not _same(alone, expected):
            raise InputError(f"the features of {name} {_reason(run, images_BCHW, together)}")
    return {readout: features.clone() for readout, features in together.items()}


def normalised(images_BHWC: np.ndarray[Any, Any], view: Preprocess) -> Tensor:
    """Return (x / 255 - mean) / std of uint8 images, (B, 3, H, W) float64."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (view.mean, view.std))
    return (torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).double() / 255 - mean) / std


def _refuse_training_mode(network: OwnNetwork, name: str) -> None:
    training = [path for path, module in network.module.named_modules() if module.training]
    if training:
        which = "the module is" if not training[0] else f"{training[0]} of the module is"
        raise InputError(
            f"{name}: {which} in training mode, in which batch norm and dropout make the features of an image depend "
            "on the rest of its batch and on chance; return the module with .eval()"
        )


def _vectors(output: Features, *, rows: int, name: str) -> Features:
    for readout, features in output.items():
        what = name if set(output) == {PENULTIMATE} else f"{name}, readout {readout!r},"
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != rows or not features.shape[1]:
            shape = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise InputError(f"{what} gives {shape} for {rows} images; expected vectors of shape ({rows}, D)")
        if not features.is_floating_point():
            raise InputError(f"{what} gives {features.dtype}; expected floating-point vectors")
    if PENULTIMATE not in output:
        raise InputError(f"{name} gives the readouts {', '.join(output)}; one of them must be called {PENULTIMATE!r}")
    return output


def _refuse_numbers(features: Features, name: str) -> None:
    for readout, features_BD in features.items():
        what = name if readout == PENULTIMATE else f"{name}, readout {readout!r}"
        if bad := int((~features_BD.isfinite()).any(dim=1).sum()):
            raise InputError(f"the features of {what} are NaN or infinite for {bad} of {len(features_BD)} images")
        if not features_BD.any():
            raise InputError(f"the features of {what} are all 0; was a layer taken that was never trained?")


class _Turns:
    """Lets two threads run a network in turns, each to the end of one module, of which some are in others.

    A module that keeps values between its layers, as hooks do that store on ``self``, then goes on with the other's.
    Where the other cannot go on because the module lets a single thread in, turns end after ``patience`` seconds.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._changed = threading.Condition(threading.RLock())
        self._threads: list[int | None] = [threading.get_ident()]
        self._turn = self._threads[0]
        self._over = False

    def add(self, other: threading.Thread) -> None:
        """Let the other thread, which has begun and waits, take part."""
        with self._changed:
            self._threads.append(other.ident)

    def end(self) -> None:
        """Let every thread run on its own from now on."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until it is this thread's turn."""
        me = threading.get_ident()
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._over or self._turn == me, self._patience)
            if not in_time:
                self.end()

    def pass_on(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Give the turn to the other thread, and wait for its end: a forward hook."""
        with self._changed:
            self._turn = next((each for each in self._threads if each != threading.get_ident()), self._turn)
            self._changed.notify_all()
        self.wait()


def _in_turns(run: Callable[[Tensor], Features], network: nn.Module, images_BCHW: Tensor, patience: float) -> Features:
    """Return the features of the first image alone, while another thread runs the second, each a module at a time."""
    turns = _Turns(patience)
    hooks = [module.register_forward_hook(turns.pass_on) for module in network.modules()]

    def run_other() -> None:
        turns.wait()
        with suppress(Exception):  # the pass in this thread tells of it
            exact_pass(network, images_BCHW[1:])
        turns.end()

    other = threading.Thread(target=run_other, daemon=True)
    other.start()
    turns.add(other)
    try:
        return run(images_BCHW[:1])
    finally:
        turns.end()
        other.join()
        for hook in hooks:
            hook.remove()


def _reason(run: Callable[[Tensor], Features], images_BCHW: Tensor, together: Features) -> str:
    """Find out why an image had other features on its own than in a batch of two."""
    if not _same(run(images_BCHW), together):
        return (
            "differ from call to call: something is drawn at random (dropout, or masked patches as in a masked "
            "autoencoder's encoder), or kept from one call to the next; it must be off for features"
        )
    if not _same(run(images_BCHW[:1]), {readout: features[:1] for readout, features in together.items()}):
        return (
            "depend on the rest of the batch: an image on its own gets others (statistics over the batch, or a squeeze "
            "or reshape that mixes images)"
        )
    return (
        "depend on what other threads do: values are kept between layers, as by a hook that stores on self; several "
        "threads run the network at once, so return them from forward (torchvision's create_feature_extractor does)"
    )


def _same(features: Features, expected: Features) -> bool:
    """Compare readout by readout, relative to the norm; NaN is equal to nothing."""
    return features.keys() == expected.keys() and all(
        features[name].shape == vectors.shape and bool((features[name] - vectors).norm() <= _TOLERANCE * vectors.norm())
        for name, vectors in expected.items()
    )
