"""Checkpoints of other definitions give, under our names, exactly the network they were saved from."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from penultimate.engine.backbones.architectures.checkpoint_layouts import to_our_names
from penultimate.engine.backbones.architectures.networks import create_network
from penultimate.engine.backbones.loading.weights import load_network
from penultimate.store.errors import InputError


def trained_looking(model: nn.Module) -> nn.Module:
    """Set batch norms as after training, so that a wrongly assigned tensor changes the output."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


def outputs(model: nn.Module, size: int) -> Tensor:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        result: Tensor = model(images)
    return result


def _named(model: nn.Module, names: tuple[str, ...]) -> list[tuple[str, Tensor]]:
    return [(re.sub(r"^(\d)", lambda m: names[int(m[1])], key), t) for key, t in model.state_dict().items()]


def without_a_dot(name: str) -> str:
    """Rename tensors as in torchvision's densenet checkpoints of 2017."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theirs", "ours", "size"),
    [
        ("resnet50", "resnet50", 64),
        ("densenet121", "densenet121", 64),
        ("mobilenet_v2", "mobilenetv2_100", 64),
        ("inception_v3", "inception_v3", 80),
        ("googlenet", "inception_v1", 64),
    ],
)
def test_torchvisions_checkpoint_computes_what_torchvision_computes(
    theirs: str, ours: str, size: int, tmp_path: Path
) -> None:
    heads = {"aux_logits": True, "init_weights": True} if theirs in ("inception_v3", "googlenet") else {}
    reference = trained_looking(getattr(torchvision_models, theirs)(weights=None, **heads))
    state = reference.state_dict()
    torch.save({without_a_dot(name): t for name, t in state.items()}, tmp_path / "published.pth")
    network = load_network(ours, weights=str(tmp_path / "published.pth"), seed=0)
    # The same operations in the same order, but fused differently (batch norm with ReLU): float32 rounding.
    torch.testing.assert_close(outputs(network.model, size), outputs(reference, size), rtol=1e-4, atol=1e-5)


def test_the_caffe_bn_inception_loses_its_biases_into_running_means_and_turns_to_rgb(tmp_path: Path) -> None:
    model = trained_looking(create_network("bn_inception", seed=2))
    published: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(3)
    for name, tensor in model.state_dict().items():
        caffe = re.sub(r"^(inception_\d\w)\.", r"\1_", name).replace(".conv.", ".").replace(".bn.", "_bn.")
        published[re.sub("^fc", "last_linear", caffe)] = tensor.clone()
        if name.endswith("conv.weight"):
            published[caffe.replace(".weight", ".bias")] = torch.rand(len(tensor), generator=generator)
    for name in [name for name in published if name.endswith("_bn.running_mean")]:
        published[name] = (published[name] + published[name.replace("_bn.running_mean", ".bias")])[None]
    published["conv1_7x7_s2.weight"] = published["conv1_7x7_s2.weight"].flip(1)
    torch.save(published, tmp_path / "bn_inception-52deb4733.pth")
    network = load_network("bn_inception", weights=str(tmp_path / "bn_inception-52deb4733.pth"), seed=0)
    assert network.name == "bn_inception.bn_inception-52deb4733"
    expected = model.state_dict()
    for name, tensor in network.model.state_dict().items():
        # A bias below 1 added to a running mean and taken away again: two float32 roundings of 2^-24.
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-7 if "running_mean" in name else 0)


def test_a_bias_before_batch_norm_is_its_running_mean_shifted() -> None:
    """Compute the first layer as Caffe does: BGR, convolution with bias, batch norm."""
    block = create_network("bn_inception", seed=2).get_submodule("conv1_7x7_s2")
    caffe = nn.Sequential(nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.BatchNorm2d(64, eps=1e-5), nn.ReLU())
    published = {f"conv1_7x7_s2{part}": t for part, t in _named(trained_looking(caffe), ("", "_bn"))}
    renamed = to_our_names("bn_inception", published, create_network("bn_inception"))
    block.load_state_dict({name.removeprefix("conv1_7x7_s2."): t for name, t in renamed.items()})
    rgb = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        torch.testing.assert_close(block(rgb), caffe(rgb.flip(1)), rtol=1e-4, atol=1e-6)  # float32 rounding


@pytest.mark.slow
def test_the_converted_nasnet_mobile_fits_but_for_the_name_of_its_classifier(tmp_path: Path) -> None:
    model = create_network("nasnetamobile", seed=2)
    published = {re.sub("^fc", "last_linear", name): t for name, t in model.state_dict().items()}
    torch.save(published, tmp_path / "nasnetamobile-7e03cead.pth")
    network = load_network("nasnetamobile", weights=str(tmp_path / "nasnetamobile-7e03cead.pth"), seed=0)
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in network.model.state_dict().items())


def test_a_checkpoint_of_another_network_is_refused_with_its_tensors(tmp_path: Path) -> None:
    torch.save(torchvision_models.mobilenet_v2(weights=None).state_dict(), tmp_path / "mobilenet_v2.pth")
    for ours in ("mobilenetv2_140", "bn_inception", "densenet121"):
        with pytest.raises(InputError, match=r"does not fit .* (missing|of another shape): "):
            load_network(ours, weights=str(tmp_path / "mobilenet_v2.pth"), seed=0)
