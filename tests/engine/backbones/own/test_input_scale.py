"""A network that is shown images on another scale than it was trained on is warned of, as far as it can be told."""

from dataclasses import replace

import pytest
from torch import nn

from penultimate.engine.backbones.loading.weights import load_network
from penultimate.engine.backbones.own.checks import checked_features
from penultimate.engine.backbones.own.input_scale import SCALES, Scale, divergence, scale_warnings
from penultimate.engine.backbones.own.load import load_own
from penultimate.engine.backbones.own.own_network import OwnNetwork, preprocess_from

LITES = [f"tf_efficientnet_lite{number}" for number in range(3)]
HALF = "pixels between -1 and 1"


def trained(arch: str, scale: Scale) -> OwnNetwork:
    """A network with published weights, as a module of the user's that is shown images on ``scale``."""
    network = load_network(arch, weights="package", seed=0).model
    network.reset_classifier(0)
    view = preprocess_from({"size": 128, "mean": scale[0], "std": scale[1]}, "a test")
    return OwnNetwork(network, view).eval()


@pytest.mark.parametrize("arch", LITES)
def test_batch_norm_tells_the_scale_a_network_was_trained_on(arch: str) -> None:
    network = trained(arch, SCALES[HALF])
    found = {name: divergence(network, scale) for name, scale in SCALES.items()}
    assert all(distance is not None for distance in found.values())
    assert min(found, key=lambda name: found[name] or 0) == HALF
    assert sorted(distance or 0 for distance in found.values())[1] > 4 * (found[HALF] or 0)


@pytest.mark.parametrize("name", SCALES)
def test_another_scale_is_warned_of_with_the_one_that_fits(name: str) -> None:
    network = trained(LITES[0], SCALES[name])
    said = scale_warnings(network, checked_features(network, "a test"))
    if name == HALF:
        assert said == ()
    else:
        assert f"this fits better: {HALF}" in said[0]


def test_a_mean_and_std_that_are_nearly_right_are_not_warned_of() -> None:
    network = trained(LITES[0], ((127 / 255,) * 3, (128 / 255,) * 3))
    assert scale_warnings(network, checked_features(network, "a test")) == ()


def test_without_a_trained_batch_norm_the_scale_is_not_known() -> None:
    view = preprocess_from({"size": 32, "mean": (0, 0, 0), "std": (1, 1, 1)}, "a test")
    untrained = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert divergence(OwnNetwork(untrained.eval(), view), SCALES[HALF]) is None


def test_features_that_hardly_depend_on_the_image_are_warned_of() -> None:
    assert load_own("support.own_networks:plain", seed=0).warnings == ()
    (said,) = load_own("support.own_networks:scaled_twice", seed=0).warnings
    assert "hardly depend on the image" in said


def test_the_network_keeps_its_preprocess_and_loses_its_hooks() -> None:
    network = trained(LITES[0], SCALES[HALF])
    before = replace(network.preprocess)
    divergence(network, SCALES["ImageNet's"])
    assert network.preprocess == before
    assert not any(module._forward_pre_hooks for module in network.modules())
