"""Rename the tensors of checkpoints that were published for another definition of a network.

torchvision's resnet and densenet checkpoints have timm's names already (the oldest densenet files differ by a
dot), its inception_v3, googlenet and mobilenet_v2 do not quite; R. Cadene's conversions of the Caffe
BN-Inception and of NASNet-A Mobile need more. A checkpoint that has our names already is left as it is.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from penultimate.engine.backbones.architectures.network import Network

Tensors = dict[str, Tensor]


def to_our_names(arch: str, tensors: Mapping[str, Tensor], model: Network) -> Tensors:
    """Return ``tensors`` under the names of ``model``, where the published layout of ``arch`` has others."""
    renamed = dict(tensors)
    for pattern, layout in _LAYOUTS.items():
        if re.fullmatch(pattern, arch):
            renamed = layout(renamed, model)
    return renamed


def _without_auxiliary_heads(tensors: Tensors, model: Network) -> Tensors:
    """Drop the heads that only training uses: torchvision's googlenet (aux1, aux2) and inception_v3 (AuxLogits)."""
    return {name: t for name, t in tensors.items() if not re.match(r"(aux[12]|AuxLogits)\.", name)}


def _densenet(tensors: Tensors, model: Network) -> Tensors:
    """Rename ``denselayer1.norm.1.weight`` of torchvision's checkpoints of 2017 to ``denselayer1.norm1.weight``."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): t for name, t in tensors.items()}


def _mobilenet_v2(tensors: Tensors, model: Network) -> Tensors:
    """Rename torchvision's layers, named by position (``features.1.conv.0.0``), which come in timm's order."""
    if "features.0.0.weight" not in tensors:
        return tensors
    theirs = [name for name in tensors if not name.endswith("num_batches_tracked")]
    ours = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    if len(theirs) != len(ours):
        return tensors
    return {our: tensors[their] for our, their in zip(ours, theirs, strict=True)}


def _last_linear(tensors: Tensors, model: Network) -> Tensors:
    """Rename the classifier, which R. Cadene calls ``last_linear``, to ``fc``."""
    return {re.sub(r"^last_linear\.", "fc.", name): t for name, t in tensors.items()}


def _bn_inception(tensors: Tensors, model: Network) -> Tensors:
    """Convert Caffe's flat names (``inception_3a_double_3x3_1_bn``), convolutions with bias, and BGR input.

    A bias before batch norm only shifts its running mean: (conv + b - mean) = conv - (mean - b).
    """
    if "conv1_7x7_s2.weight" not in tensors:
        return tensors
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        block = re.sub(r"^(inception_\d\w)_", r"\1.", name)
        ours = re.sub(r"_bn\.(\w+)$", r".bn.\1", block)
        # The conversion of 2017 kept Caffe's leading axis of one on batch norm's vectors.
        renamed[ours] = tensor.reshape(-1) if ours != block else tensor
    for name in [name for name in renamed if name.endswith(".bn.running_mean")]:
        convolution = name.removesuffix(".bn.running_mean")
        renamed[name] = renamed[name] - renamed.pop(f"{convolution}.bias")
        renamed[f"{convolution}.conv.weight"] = renamed.pop(f"{convolution}.weight")
    renamed["conv1_7x7_s2.conv.weight"] = renamed["conv1_7x7_s2.conv.weight"].flip(1)  # BGR -> RGB
    return renamed


_LAYOUTS: dict[str, Callable[[Tensors, Network], Tensors]] = {
    "inception_v[13]": _without_auxiliary_heads,
    "densenet.*": _densenet,
    "mobilenetv2_.*": _mobilenet_v2,
    "bn_inception|nasnetamobile": _last_linear,
    "bn_inception": _bn_inception,
}
"""Architecture (a regular expression) -> function that converts its published layout; applied in order."""
