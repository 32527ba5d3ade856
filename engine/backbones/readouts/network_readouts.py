"""List the readouts of a network with timm's interface, by its description of its own layers.

timm's ``feature_info`` names the layers that ``forward_intermediates`` gives, in its order: the indices are timm's.
They are blocks where all maps are of one size, as in a vision transformer, and stages elsewhere. A network without
``forward_intermediates`` has the penultimate layer alone.
"""

import inspect
from typing import Any

from torch import nn

from penultimate.engine.backbones.architectures.network import Network
from penultimate.engine.backbones.own.own_network import OwnNetwork
from penultimate.engine.backbones.readouts.readout import Part, Readout, Unit
from penultimate.store.key import PENULTIMATE

_LAST_CLASS_TOKENS = 4
"""Number of blocks whose class tokens ``last4`` has, as in DINOv2's linear evaluation."""


def readouts_of(model: Network) -> dict[str, Readout]:
    """Return by name the readouts of a network that has a penultimate layer; it may lie on torch's meta device.

    Those of a network of the user's are what its module gives.
    """
    if isinstance(model, OwnNetwork):
        return {name: Readout(name, dim) for name, dim in model.readout_dims.items()}
    found = [Readout(PENULTIMATE, model.head_hidden_size)]
    if layers := layers_of(model):
        unit, widths = unit_of(model), [layer["num_chs"] for layer in layers]
        if unit == "block":
            found += _of_tokens(widths, has_class_token=has_class_token(model))
        found += [Readout(f"{unit}:{index}", dim, (Part("mean", index),)) for index, dim in enumerate(widths)]
    return {readout.name: readout for readout in found}


def layers_of(model: nn.Module) -> list[dict[str, Any]]:
    """Return timm's description of each layer whose map it gives: ``num_chs``, ``reduction``, ``module``."""
    info = getattr(model, "feature_info", None)
    if not hasattr(model, "forward_intermediates") or info is None:
        return []
    return list(info) if isinstance(info, list) else list(info.info)


def unit_of(model: nn.Module) -> Unit:
    """Return whether the layers of a network are blocks, whose maps are all of one size, or stages."""
    return "block" if len({layer["reduction"] for layer in layers_of(model)}) == 1 else "stage"


def has_class_token(model: nn.Module) -> bool:
    """Return whether the first token of each layer is a class token, and timm gives it beside the map."""
    return getattr(model, "cls_token", None) is not None and takes(model, "return_prefix_tokens")


def gives_tokens(model: nn.Module) -> bool:
    """Return whether timm gives the layers of this network as tokens (B, L, D) too, which spares a copy into a map.

    That the formats differ between networks is not declared; timm asserts them before it looks at the images.
    """
    if unit_of(model) != "block" or not takes(model, "output_fmt"):
        return False
    try:
        model.forward_intermediates(None, output_fmt="NLC")  # type: ignore[operator]  # a method
    except AssertionError:
        return False
    except Exception:  # there are no images to compute anything from
        return True
    return True


def takes(model: nn.Module, option: str) -> bool:
    """Return whether the network's ``forward_intermediates`` has this option."""
    return option in inspect.signature(model.forward_intermediates).parameters  # type: ignore[arg-type]  # a method


def _of_tokens(widths: list[int], *, has_class_token: bool) -> list[Readout]:
    """Return the readouts of a network whose blocks give tokens of these widths, but for those of single blocks."""
    last, width = len(widths) - 1, widths[-1]
    cls, mean = Part("cls", last), Part("mean", last)
    patch_mean = Readout("patch-mean", width, (mean,))
    if not has_class_token:
        return [patch_mean]
    found = [Readout("cls", width, (cls,)), patch_mean, Readout("cls+patch-mean", 2 * width, (cls, mean))]
    if len(widths) >= _LAST_CLASS_TOKENS:
        tokens = [Part("cls", layer) for layer in range(len(widths) - _LAST_CLASS_TOKENS, len(widths))]
        dim = sum(widths[token.layer] for token in tokens) + width
        found.append(Readout(f"last{_LAST_CLASS_TOKENS}", dim, (*tokens, mean)))
    return found
