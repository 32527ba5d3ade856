"""Readouts are what independent computations of the same vectors give, one pass gives them all, and names are checked.

Every expectation here is computed from the network's own modules, by hooks or step by step, never by timm's
``forward_intermediates``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penultimate.engine.backbones.architectures.networks import create_network
from penultimate.engine.backbones.readouts.network_readouts import readouts_of
from penultimate.engine.backbones.readouts.readout import chosen, listed
from penultimate.engine.backbones.timm_backbone import TimmBackbone, load_backbone
from penultimate.engine.runtime.capabilities import has_compiler
from penultimate.store.errors import InputError

# Shapes: B images, T tokens, C channels, H x W pixels or places of a map, D feature dimensions.

Pixels = NDArray[np.uint8]


def noise(backbone: TimmBackbone, batch: int = 2) -> Pixels:
    shape = (batch, backbone.preprocess.height, backbone.preprocess.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def normalised(backbone: TimmBackbone, images: Pixels) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.preprocess.mean, backbone.preprocess.std))
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0 - mean) / std


def outputs_of(backbone: TimmBackbone, images: Pixels, modules: Sequence[nn.Module]) -> list[Tensor]:
    """Return what these modules gave in a plain forward pass; copies, for a later layer may work in place."""
    seen: list[Tensor] = []
    hooks = [each.register_forward_hook(lambda module, inputs, out: seen.append(out.clone())) for each in modules]
    with torch.inference_mode():
        backbone.model(normalised(backbone, images))
    for hook in hooks:
        hook.remove()
    return seen


def mean_of_map(map_BCHW: Tensor) -> Tensor:
    return map_BCHW.flatten(2).mean(dim=2)


def randomised(backbone: TimmBackbone) -> TimmBackbone:
    """Give the network's norms and tokens random values: as they are made, a norm left out would hardly show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if parameter.ndim == 1 or "token" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return backbone


def close(found: NDArray[np.float32], expected: Tensor) -> None:
    """The same sums in another order: float32 rounding through tens of layers."""
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-4, atol=2e-5 * float(expected.abs().max()))


TOKENS = {
    "vit_small_patch14_dinov2": 1,
    "vit_small_patch14_reg4_dinov2": 5,
    "deit_tiny_distilled_patch16_224": 2,
}
"""Network with a class token -> number of prefix tokens: the class token, registers, a distillation token."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENS)
def test_tokens_are_those_of_the_blocks_with_the_final_norm(name: str) -> None:
    """``last4`` is DINOv2's ``create_linear_input`` for four blocks with average pooling (facebookresearch/dinov2)."""
    backbone = randomised(load_backbone(name, weights="random", readouts=["*"]))
    model: Any = backbone.model
    images = noise(backbone, 1)
    found = backbone.embed(images)
    raw = outputs_of(backbone, images, list(model.blocks))
    tokens = [model.norm(block_BTD) for block_BTD in raw]
    cls = [block_BTD[:, 0] for block_BTD in tokens]
    means = [block_BTD[:, TOKENS[name] :].mean(dim=1) for block_BTD in tokens]
    close(found["cls"], cls[-1])
    close(found["patch-mean"], means[-1])
    close(found["cls+patch-mean"], torch.cat([cls[-1], means[-1]], dim=1))
    close(found["last4"], torch.cat([*cls[-4:], means[-1]], dim=1))
    for index, mean_BD in enumerate(means):
        close(found[f"block:{index}"], mean_BD)
    # The test would pass without the final norm, or with the prefix among the patches, only if these were alike.
    for other in (raw[-1][:, TOKENS[name] :].mean(dim=1), tokens[-1][:, TOKENS[name] - 1 :].mean(dim=1)):
        assert not np.allclose(found["patch-mean"], other.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_siglip_has_patches_and_no_class_token() -> None:
    backbone = randomised(load_backbone("vit_base_patch16_siglip_224", weights="random", readouts=["*"]))
    assert list(backbone.feature_dims) == ["penultimate", "patch-mean", *(f"block:{i}" for i in range(12))]
    model: Any = backbone.model
    images = noise(backbone, 1)
    found = backbone.embed(images)
    (last_BTD,) = outputs_of(backbone, images, [model.blocks[-1]])
    close(found["patch-mean"], model.norm(last_BTD).mean(dim=1))
    close(found["penultimate"], model.attn_pool(model.norm(last_BTD)))


STAGES: dict[str, Callable[[Any], list[nn.Module]]] = {
    "convnext_atto": lambda model: list(model.stages),
    "resnet18": lambda model: [model.act1, model.layer1, model.layer2, model.layer3, model.layer4],
    "mobilenetv3_small_050": lambda model: [model.bn1, *(model.blocks[i] for i in (0, 1, 3, 5))],
    "tf_efficientnet_lite0": lambda model: [model.blocks[i] for i in (0, 1, 2, 4, 6)],
    "swin_tiny_patch4_window7_224": lambda model: list(model.layers),
}
"""Network of stages -> the modules at their ends, as a look at its source tells them."""


@pytest.mark.parametrize("name", STAGES)
def test_maps_of_stages_are_averaged_as_they_are(name: str) -> None:
    backbone = load_backbone(name, weights="random", readouts=["stage:*"])
    images = noise(backbone)
    found = backbone.embed(images)
    maps = outputs_of(backbone, images, STAGES[name](backbone.model))
    if name.startswith("swin"):  # which has its channels last
        maps = [map_BHWC.permute(0, 3, 1, 2) for map_BHWC in maps]
    assert list(found) == [f"stage:{index}" for index in range(len(found))]
    assert len(maps) == len(found)
    for features_BD, map_BCHW in zip(found.values(), maps, strict=True):
        close(features_BD, mean_of_map(map_BCHW))


@pytest.mark.parametrize("name", ["test_vit", "test_vit_relpos", "test_resnet", "test_convnext", "test_efficientnet"])
def test_the_penultimate_layer_is_the_same_with_other_readouts_and_without(name: str) -> None:
    alone, among = (load_backbone(name, weights="random", readouts=each) for each in (["penultimate"], ["*"]))
    images = noise(alone, 3)
    np.testing.assert_array_equal(alone.embed(images)["penultimate"], among.embed(images)["penultimate"])
    np.testing.assert_array_equal(alone.logits(images), among.classify(images)[1])
    assert among.embed(images[:0])["penultimate"].shape == (0, alone.feature_dims["penultimate"])


@pytest.mark.parametrize(
    ("name", "layers_of", "early"),
    [
        ("test_vit", lambda model: list(model.blocks), "block:1"),
        ("test_resnet", lambda model: [model.layer1, model.layer2, model.layer3, model.layer4], "stage:1"),
    ],
)
def test_one_pass_gives_all_readouts_and_stops_at_the_last_that_is_needed(
    name: str, layers_of: Callable[[Any], list[nn.Module]], early: str
) -> None:
    def embedded(readout: str) -> tuple[NDArray[np.float32], int, int]:
        """Return the features of ``early``, how many layers were run, and how many there are."""
        backbone = load_backbone(name, weights="random", readouts=[readout])
        layers, runs = layers_of(backbone.model), []
        for layer in layers:
            layer.register_forward_hook(lambda module, inputs, out: runs.append(module))
        return backbone.embed(noise(backbone, 3))[early], len(runs), len(layers)

    (among, num_run, num_layers), (alone, num_early, _) = embedded("*"), embedded(early)
    assert num_run == num_layers
    assert num_early < num_layers
    np.testing.assert_array_equal(alone, among)


def test_names_globs_and_indices_from_the_end_stand_for_the_readouts_of_a_network() -> None:
    with torch.device("meta"):
        available = readouts_of(create_network("vit_small_patch16_224"))

    def names(*wanted: str) -> list[str]:
        return [readout.name for readout in chosen(available, wanted, network="vit")]

    assert names("blocks") == ["block:2", "block:5", "block:8", "block:11"]
    assert names("block:-1", "block:11", "cls") == ["block:11", "cls"]
    assert names("block:-12") == ["block:0"]
    assert names("*mean", "block:1?") == ["patch-mean", "cls+patch-mean", "block:10", "block:11"]
    assert available["last4"].dim == 5 * 384
    assert listed(available) == [
        "penultimate", "cls", "patch-mean", "cls+patch-mean", "last4", "block:0 to block:11", "blocks"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("network", "wanted", "has"),
    [
        ("resnet18", "cls", "it has penultimate, stage:0 to stage:4$"),
        ("resnet18", "blocks", "it has penultimate, stage:0 to stage:4$"),
        ("resnet18", "stage:5", "it has penultimate, stage:0 to stage:4$"),
        ("resnet18", "stage:-6", "it has penultimate, stage:0 to stage:4$"),
        ("vit_base_patch16_siglip_224", "last4", "it has penultimate, patch-mean, block:0 to block:11, blocks$"),
        ("vit_tiny_patch16_224", "x*", "has no readout 'x\\*'; it has penultimate, cls, patch-mean, .*, last4, "),
        ("inception_v1", "stage:0", "it has penultimate$"),
    ],
)
def test_what_a_network_does_not_have_is_refused_with_what_it_has(network: str, wanted: str, has: str) -> None:
    with torch.device("meta"):
        model = create_network(network)
    with pytest.raises(InputError, match=has):
        chosen(readouts_of(model), [wanted], network=network)


def test_a_network_whose_intermediates_end_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = type(create_network("test_resnet"))
    whole = model.forward_intermediates

    def other(self: Any, x: Tensor, **options: Any) -> Any:
        final, maps = whole(self, x, **options)
        return final + 1, maps

    monkeypatch.setattr(model, "forward_intermediates", other)
    with pytest.raises(
        InputError, match=r"does not end in its penultimate features .* in one extraction and the other"
    ):
        load_backbone("test_resnet", weights="random", readouts=["penultimate", "stage:4"])


@pytest.mark.slow
@pytest.mark.capability
@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_compiled_readouts_are_the_eager_ones(name: str) -> None:
    backbone = load_backbone(name, weights="random", readouts=["*"])
    images = noise(backbone, 6)
    eager = backbone.embed(images)
    backbone.compile(4)
    compiled = backbone.embed(images)  # a full pass and one that is filled up
    assert list(compiled) == list(eager)
    for readout, features_BD in eager.items():
        # Batch norms folded, and sums in another order: float32 rounding through some twenty layers.
        np.testing.assert_allclose(compiled[readout], features_BD, rtol=1e-3, atol=1e-4, err_msg=readout)
