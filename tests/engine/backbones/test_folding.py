"""Folding below float32: as near to float32 as eager, no batch norm left, and what cannot be folded left alone."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass

from penultimate.engine.backbones.devices import computes_natively
from penultimate.engine.backbones.folding import can_fold, folding_once_rounded
from penultimate.engine.backbones.forward import has_compiler
from penultimate.engine.backbones.timm_backbone import load_backbone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler"),
    pytest.mark.skipif(
        not (computes_natively("bfloat16", torch.device("cpu")) and can_fold(torch.bfloat16)),
        reason="needs a processor with bfloat16 units and oneDNN",
    ),
]


class LastGraph(CustomGraphPass):
    """The operators of the graph that was compiled last."""

    def __init__(self) -> None:
        self.targets: list[Any] = []

    def __call__(self, graph: torch.fx.Graph) -> None:
        self.targets = [node.target for node in graph.nodes]

    def uuid(self) -> None:
        """None: a graph from torch's cache would not come by here."""


def as_if_trained(model: nn.Module) -> None:
    """Statistics and affine maps that differ by channel, as trained ones do; those of a new network fold to nothing."""
    rng = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low, high in (
                (norm.weight, 0.5, 2.0),
                (norm.bias, -1.0, 1.0),
                (norm.running_mean, -1.0, 1.0),
                (norm.running_var, 0.3, 3.0),
            ):
                assert values is not None
                values.data.uniform_(low, high, generator=rng)


def distance(features: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Median over images of ||f - e|| / ||e||."""
    return float(np.median(np.linalg.norm(features - exact, axis=1) / np.linalg.norm(exact, axis=1)))


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet"])
def test_compiled_bfloat16_features_are_as_near_to_float32_as_eager_ones(arch: str) -> None:
    backbone = load_backbone(arch, weights="random", precision="bfloat16")
    as_if_trained(backbone.model)
    shape = (32, backbone.preprocess.height, backbone.preprocess.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    exact, eager = backbone.reference().embed(images), backbone.embed(images)
    seen = LastGraph()
    with config.patch(post_grad_custom_post_pass=seen):
        backbone.compile(8)
    compiled = backbone.embed(images)
    print("DIST", arch, distance(compiled, exact), distance(eager, exact))
    assert distance(compiled, exact) < 1.2 * distance(eager, exact)
    assert torch.ops.aten.sub.Tensor not in seen.targets  # of the mean, the first step of every batch norm
    for weight in backbone.model.parameters():
        weight.data.zero_()
    np.testing.assert_array_equal(backbone.embed(images), compiled)
