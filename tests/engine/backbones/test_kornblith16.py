"""Every one of the paper's sixteen networks is built and compared with the published sizes."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from penultimate.engine.backbones.architectures.auxiliary import HEADS, AuxiliaryNetwork, total_loss
from penultimate.engine.backbones.architectures.network import Network
from penultimate.engine.backbones.architectures.networks import arch_of, create_network
from penultimate.engine.backbones.classifier import classifier_names
from penultimate.engine.backbones.imagenet import imagenet_top1
from penultimate.engine.backbones.kornblith16 import KORNBLITH16, PaperNetwork

NAMES = [network.paper_name for network in KORNBLITH16]


def without_memory(network: PaperNetwork) -> Network:
    """Build a network on torch's meta device: shapes and counts without tensors or arithmetic."""
    with torch.device("meta"):
        return create_network(network.model)


def batch_norms(model: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def test_there_are_sixteen_in_the_papers_order_with_its_dimensions_and_input_sizes() -> None:
    assert [network.feature_dim for network in KORNBLITH16] == [
        *(1024, 1024, 2048, 1536, 1536, 2048, 2048, 2048),
        *(1024, 1664, 1920, 1024, 1280, 1792, 1056, 4032),
    ]
    assert [network.input_size for network in KORNBLITH16] == [224, 224, *3 * [299], *10 * [224], 331]


@pytest.mark.parametrize("network", KORNBLITH16, ids=NAMES)
def test_parameters_are_as_many_as_published(network: PaperNetwork) -> None:
    model = without_memory(network)
    count = sum(p.numel() for p in model.parameters())
    channels = sum(norm.num_features for norm in batch_norms(model))
    count += 2 * channels * network.counts_statistics + channels * network.counts_biases
    assert count == network.parameters
    assert set(classifier_names(model)) == {name for name, p in model.named_parameters() if p.shape[0] == 1000}


@pytest.mark.parametrize("network", KORNBLITH16, ids=NAMES)
def test_features_are_the_spatial_mean_of_the_penultimate_module(network: PaperNetwork) -> None:
    model = without_memory(network)
    assert model.pretrained_cfg["input_size"] == (3, network.input_size, network.input_size)
    assert f"{arch_of(network.model)}.{model.pretrained_cfg['tag']}" == network.model
    seen: list[Tensor] = []
    model.get_submodule(network.penultimate).register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.empty(2, 3, network.input_size, network.input_size, device="meta")
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    assert features.shape == (2, network.feature_dim)
    assert seen[-1].shape[:2] == (2, network.feature_dim)
    assert model.head_hidden_size == network.feature_dim
    assert seen[-1].shape[2] == -(-network.input_size // 32) or network.input_size == 299  # valid padding: 8


@pytest.mark.slow
@pytest.mark.parametrize("network", KORNBLITH16, ids=NAMES)
def test_every_network_computes_the_mean_of_its_last_maps(network: PaperNetwork) -> None:
    """Run the largest networks on inputs as small as their strides and valid padding allow."""
    model = create_network(network.model)
    seen: list[Tensor] = []
    model.get_submodule(network.penultimate).register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
    # One mean over at most nine float32 values, taken by another kernel.
    torch.testing.assert_close(features, seen[-1].mean(dim=(2, 3)), rtol=1e-5, atol=1e-6)
    assert features.std() > 0


def test_every_network_has_an_imagenet_accuracy_near_the_papers_range() -> None:
    top1 = imagenet_top1()
    values = [top1[network.model] for network in KORNBLITH16]
    # Printed range of the retrained networks: 71.6 to 80.8 %; public weights lie from 69.8 to 82.7 %.
    assert all(0.69 < value < 0.83 for value in values)


@pytest.mark.parametrize("arch", HEADS)
def test_auxiliary_heads_speak_in_training_alone_and_leave_the_networks_own_tensors(arch: str) -> None:
    network = next(network for network in KORNBLITH16 if arch_of(network.model) == arch)
    assert "auxiliary head" in network.switches
    with torch.device("meta"):
        model = create_network(arch, num_classes=7)
        before = list(model.state_dict())
        both = AuxiliaryNetwork(model, arch, seed=0)
    images = torch.empty(2, 3, network.input_size, network.input_size, device="meta")
    outputs, auxiliary = both.train()(images)
    assert [tuple(t.shape) for t in (outputs, *auxiliary)] == [(2, 7)] * (1 + len(HEADS[arch].taps))
    assert both.eval()(images)[1] == ()
    assert list(model.state_dict()) == before


def test_the_loss_adds_each_head_by_its_weight() -> None:
    loss = nn.CrossEntropyLoss()
    main, first, second = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 3])
    expected = loss(main, targets) + 0.3 * (loss(first, targets) + loss(second, targets))
    torch.testing.assert_close(total_loss(loss, (main, (first, second)), targets, weight=0.3), expected)
    torch.testing.assert_close(total_loss(loss, (main, ()), targets, weight=0.3), loss(main, targets))


def test_networks_without_auxiliary_heads_say_so_by_lacking_the_switch() -> None:
    assert {arch_of(n.model) for n in KORNBLITH16 if "auxiliary head" in n.switches} == set(HEADS)
