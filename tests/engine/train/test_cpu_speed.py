"""What makes training fast on a CPU changes no result, or only towards float32."""

import copy
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from penultimate.engine.backbones.networks import create_network
from penultimate.engine.train.allocator import keep_freed_memory
from penultimate.engine.train.depthwise import compute_depthwise_in_float32
from penultimate.engine.train.learner import Learner
from penultimate.engine.train.network import Start
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.world import World

FAULTS = """
import resource, sys
import torch
from penultimate.engine.train.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc's malloc")
def test_freed_memory_is_not_faulted_in_again() -> None:
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("give back", "keep")
    )
    # Four tensors of 64 MiB in the last round: 65,536 pages of 4 KiB, or as few as 128 of 2 MiB. The heap finds its
    # size in the rounds before: a block that is to be aligned does not always fit where the last one was.
    assert given_back >= 128
    assert kept < given_back / 10


def test_without_glibc_memory_is_given_back_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()


@pytest.fixture
def depthwise() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, 3, groups=8, padding=1)


def _trained(module: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and gradient of its sum of squares by the weight."""
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


def test_only_depthwise_convolutions_of_a_run_below_float32_are_changed(start: Start, recipe: Recipe) -> None:
    def changed(precision: str) -> set[str]:
        learner = Learner(
            start,
            replace(recipe, precision=precision),
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
