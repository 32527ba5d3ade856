"""ReadoutPass is one pass of a network as a function from normalised images to every readout that is asked for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from penultimate.engine.backbones.architectures.network import Network
from penultimate.engine.backbones.own.own_network import OwnNetwork
from penultimate.engine.backbones.readouts.network_readouts import gives_tokens, takes, unit_of
from penultimate.engine.backbones.readouts.readout import Part, Readout

# Shapes: B images of a batch, H x W = L places of a map, P prefix tokens, D feature dimensions, K classes.

LOGITS = "class scores"
"""Name, beside those of readouts, of the network's own class scores (B, K)."""

ForwardPass = Callable[[nn.Module, Tensor], dict[str, Tensor]]
"""A function from a network and normalised images (B, 3, H, W) to float vectors (B, D) by name of readout, computed in
one pass. The network is an argument because one of lower precision, with the same layers, may take its place."""


class ReadoutPass:
    """The ForwardPass of a network with timm's interface.

    Tokens of blocks are taken with the network's final norm, as DINOv2 has it (``get_intermediate_layers`` with
    ``norm=True``); maps of stages are taken as they are. Layers behind the last one that is needed are not run.
    """

    def __init__(self, model: Network, readouts: Sequence[Readout], *, with_logits: bool = False) -> None:
        """Prepare a pass of ``model``, and of networks with the same layers, that gives ``readouts`` in their order.

        ``with_logits`` adds the network's own class scores, under ``LOGITS``.
        """
        self.readouts = tuple(readouts)
        self._parts = tuple(dict.fromkeys(part for readout in readouts for part in readout.parts))
        self._layers = sorted({part.layer for part in self._parts})
        self._with_logits = with_logits
        self._to_the_end = with_logits or any(not readout.parts for readout in readouts)
        with_prefix = any(part.pooling == "cls" for part in self._parts)
        self._options = _options(model, with_prefix=with_prefix) if self._parts else {}

    def __call__(self, network: Any, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return each readout, (B, D) float32, by name."""
        final, outputs = self._run(network, images_BCHW)
        pooled = {part: _pooled(outputs, part) for part in self._parts}  # several readouts have parts in common
        found = {}
        for readout in self.readouts:
            if readout.parts:
                found[readout.name] = torch.cat([pooled[part] for part in readout.parts], dim=1)
            else:
                found[readout.name] = _float32(_whole(network, final, readout.name))
        return found | ({LOGITS: _float32(network.forward_head(final))} if self._with_logits else {})

    def _run(self, network: Any, images_BCHW: Tensor) -> tuple[Any, Mapping[int, Any]]:
        """Return what goes into the head, if that is wanted, and by index the outputs of the layers that are."""
        if not self._layers:
            return network.forward_features(images_BCHW), {}
        options = self._options | {"indices": self._layers}
        if self._to_the_end:
            final, outputs = network.forward_intermediates(images_BCHW, **options)
        else:
            final = None
            outputs = network.forward_intermediates(images_BCHW, intermediates_only=True, stop_early=True, **options)
        return final, dict(zip(self._layers, outputs, strict=True))


def _whole(network: Any, final: Any, readout: str) -> Tensor:
    """Return a vector that the network itself gives: timm's the penultimate one, a user's what it calls ``readout``."""
    vector: Tensor = final[readout] if isinstance(network, OwnNetwork) else network.forward_head(final, pre_logits=True)
    return vector


def _options(model: Network, *, with_prefix: bool) -> dict[str, bool | str]:
    """Return the options with which timm gives normed tokens of blocks, and maps of stages as they are.

    Prefix tokens are asked for where they are needed: some networks without any fail when they are (timm 1.0.31).
    """
    options: dict[str, bool | str] = {"norm": unit_of(model) == "block"} if takes(model, "norm") else {}
    options |= {"return_prefix_tokens": True} if with_prefix else {}
    return options | ({"output_fmt": "NLC"} if gives_tokens(model) else {})


def _pooled(outputs: Mapping[int, Any], part: Part) -> Tensor:
    """Return the class token or the mean of the map, (B, D) float32, of a layer's output.

    timm gives tokens (B, L, D) or a map (B, D, H, W), or a pair of either and the prefix tokens (B, P, D), the class
    token first among them.
    """
    output = outputs[part.layer]
    places, prefix_BPD = output if isinstance(output, tuple) else (output, None)
    if part.pooling == "cls":
        return _float32(prefix_BPD[:, 0])
    return _float32(places.mean(dim=1 if places.ndim == 3 else (2, 3), dtype=torch.float32))


def _float32(tensor: Tensor) -> Tensor:
    """Return a tensor of timm's, which are not typed, in float32."""
    return tensor.float()
