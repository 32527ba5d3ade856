"""The optimisations of training on a CPU change no result, or only towards float32."""

import copy

import pytest
import torch
from torch import Tensor, nn

from penultimate.engine.backbones.architectures.networks import create_network
from penultimate.engine.train.learner.depthwise import compute_depthwise_in_float32
from penultimate.engine.train.learner.learner import Learner
from penultimate.engine.train.learner.network import InitialModel
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.world import World


@pytest.fixture
def depthwise() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, 3, groups=8, padding=1)


def _trained(module: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output, and the gradient of its sum of squares by the weight."""
    with torch.autocast("cpu", torch.bfloat16):
        output = module(pixels)
    (gradient,) = torch.autograd.grad(output.float().square().sum(), [module.get_parameter("weight")])
    return output, gradient


def test_a_depthwise_convolution_below_float32_has_the_gradient_of_float32(depthwise: nn.Conv2d) -> None:
    pixels = torch.randn((4, 8, 10, 10), generator=torch.Generator().manual_seed(1))
    exact = torch.autograd.grad(depthwise(pixels).square().sum(), [depthwise.weight])[0]
    _, rounded = _trained(depthwise, pixels)
    compute_depthwise_in_float32(depthwise)
    output, gradient = _trained(depthwise, pixels)
    assert output.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: each output, hence each term of the gradient, is off by up to 2**-9 of itself.
    torch.testing.assert_close(gradient, exact, rtol=2**-7, atol=2**-7 * float(exact.abs().max()))
    assert (gradient - exact).norm() < (rounded - exact).norm()


def test_evaluation_is_as_it_was_and_a_copy_computes_with_its_own_weights(depthwise: nn.Conv2d) -> None:
    pixels = torch.randn((4, 8, 10, 10), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = depthwise(pixels)
        compute_depthwise_in_float32(depthwise)
        assert torch.equal(depthwise(pixels), before)
    copied = copy.deepcopy(depthwise)  # as the moving average of the weights makes one
    nn.init.zeros_(copied.weight)
    assert not torch.equal(depthwise(pixels), copied(pixels))


def test_only_depthwise_convolutions_of_a_run_below_float32_are_changed(initial: InitialModel, recipe: Recipe) -> None:
    def changed(precision: str) -> set[str]:
        learner = Learner(
            initial,
            recipe.replace(precision=precision),
            num_classes=3,
            steps_per_epoch=3,
            world=World(rank=0, size=1, device=torch.device("cpu")),
        )
        network = learner.evaluated[1]  # type: ignore[index]  # a Sequential: pixels to inputs, then the network
        return {name for name, module in network.named_modules() if "forward" in vars(module)}

    grouped = {
        name
        for name, module in create_network(recipe.network).named_modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
    }
    assert changed("float32") == set()
    assert changed("bfloat16") == grouped != set()
