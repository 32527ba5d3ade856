"""Load a network of the user's by the name of its function, check it, and fingerprint what it computes."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from penultimate.engine.backbones.architectures.seeded import Seeded
from penultimate.engine.backbones.own.checks import checked_features
from penultimate.engine.backbones.own.fingerprint import fingerprint_of
from penultimate.engine.backbones.own.function import find_function, telling_whose
from penultimate.engine.backbones.own.input_scale import scale_warnings
from penultimate.engine.backbones.own.own_network import OwnNetwork, preprocess_from
from penultimate.store.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CheckedNetwork:
    """A network of the user's that passed all checks."""

    network: OwnNetwork
    fingerprint: dict[str, list[float]]
    """Numbers of what it computes, as ``fingerprint_of`` gives them."""

    warnings: tuple[str, ...]
    """Doubts about the scale of its input, for people."""


def load_own(name: str, *, seed: int) -> CheckedNetwork:
    """Call the function ``package.module:function`` and check what it returns, on the CPU and in float32.

    torch draws from ``seed`` meanwhile. Raises what ``find_function``, ``preprocess_from`` and ``checked_features``
    raise, and InputError where the function fails or returns anything but a module and a Preprocess.
    """
    function = find_function(name)
    with telling_whose(name, "cannot be made"), Seeded(seed):
        returned = function()
    module, given = _pair(returned, name)
    preprocess = preprocess_from(given, name)
    with telling_whose(name, "cannot be brought to the CPU in float32"):
        network = OwnNetwork(module.cpu().float(), preprocess)
    features = checked_features(network, name)
    network.readout_dims = {readout: features_BD.shape[1] for readout, features_BD in features.items()}
    return CheckedNetwork(
        network=network, fingerprint=fingerprint_of(features), warnings=scale_warnings(network, features)
    )


def _pair(returned: Any, name: str) -> tuple[nn.Module, Any]:
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], nn.Module):
        return returned[0], returned[1]
    if isinstance(returned, tuple):
        found = f"({', '.join(type(each).__name__ for each in returned)})"
    else:
        found = f"{type(returned).__name__} alone" if isinstance(returned, nn.Module) else type(returned).__name__
    raise InputError(
        f"{name} returns {found}; expected two things, a torch.nn.Module and how its images are made: "
        "`return module, penultimate.Preprocess(...)` or `return module, {'size': 224, 'mean': (...), 'std': (...)}`"
    )
