"""A backbone's passes on a simulated GPU: the CPU's features, no mixed devices, one wait and one copy back a pass."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.backbones import penultimate
from support.simulated_cuda import SimulatedCuda, simulated_cuda

from penultimate.engine.backbones import compilation
from penultimate.engine.backbones.compilation import decide_compile
from penultimate.engine.backbones.timm_backbone import TimmBackbone, load_backbone
from penultimate.engine.runtime.devices import PrecisionName

BACKENDS: Any = torch.backends
NAMES = ["test_resnet", "test_vit"]

IEEE = 5e-6
"""Largest distance of two float32 computations: attention's fused kernel on the CPU sums in another order, 1e-6 off."""


@pytest.fixture
def cuda() -> Iterator[SimulatedCuda]:
    with simulated_cuda() as device:
        yield device


def noise(backbone: TimmBackbone, batch: int) -> NDArray[np.uint8]:
    shape = (batch, backbone.preprocess.height, backbone.preprocess.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def on_gpu(name: str = "test_resnet", precision: PrecisionName = "float32") -> TimmBackbone:
    return load_backbone(name, weights="random", device="cuda", precision=precision)


def distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", NAMES)
def test_features_and_scores_are_those_of_the_cpu(cuda: SimulatedCuda, name: str) -> None:
    cpu = load_backbone(name, weights="random")
    images = noise(cpu, 5)
    gpu = on_gpu(name)
    for given in (images, torch.from_numpy(images).cuda()):
        assert distance(penultimate(gpu, given), penultimate(cpu, images)) < IEEE
        assert distance(gpu.classify(given)[1], cpu.classify(images)[1]) < IEEE


@pytest.mark.parametrize("caller", ["default", "tf32 allowed"])
@pytest.mark.parametrize("name", NAMES)
def test_float32_is_ieee_whatever_torch_allows(
    cuda: SimulatedCuda, name: str, caller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BACKENDS.cudnn.conv.fp32_precision == "tf32"  # torch's default
    cpu = load_backbone(name, weights="random")
    images = noise(cpu, 3)
    expected = penultimate(cpu, images)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if caller == "tf32 allowed" else before)
    try:
        assert distance(penultimate(on_gpu(name), images), expected) < IEEE
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", NAMES)
def test_tf32_is_its_own_precision(cuda: SimulatedCuda, name: str) -> None:
    coarse = on_gpu(name, "tf32")
    assert coarse.precision == "tf32"
    images = noise(coarse, 3)
    expected = penultimate(load_backbone(name, weights="random"), images)
    # 2^-11 a rounding of operands, through some twenty layers
    assert 10 * IEEE < distance(penultimate(coarse, images), expected) < 1e-2
    assert distance(penultimate(on_gpu(name), images), expected) < IEEE  # and not left behind


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
@pytest.mark.parametrize("decoded_on", ["host", "device"])
def test_a_pass_waits_once_and_copies_only_pixels_in_and_features_back(
    cuda: SimulatedCuda, precision: PrecisionName, decoded_on: str
) -> None:
    backbone = on_gpu("test_resnet", precision)
    images = noise(backbone, 4)
    given = torch.from_numpy(images).cuda() if decoded_on == "device" else images
    cuda.reset()
    features = penultimate(backbone, given)
    assert cuda.syncs.total() == 1, cuda.syncs.table()
    assert cuda.to_host.total() == 1, cuda.to_host.table()
    assert cuda.to_host_bytes == features.nbytes
    assert cuda.to_device_bytes == (images.nbytes if decoded_on == "host" else 0), cuda.to_device.table()
    assert cuda.pageable.total() == 0, cuda.pageable.table()


def test_frozen_weights_are_cast_once_and_not_in_every_pass(cuda: SimulatedCuda) -> None:
    """A Vision Transformer's pass has two casts of weights a linear layer, and every one reads and writes them all."""
    backbone = on_gpu("test_vit", "bfloat16")
    weights = [parameter for parameter in backbone.model.parameters() if parameter.ndim > 1]
    assert all(parameter.dtype == torch.float32 for parameter in weights)  # the reference is made of these
    images = torch.from_numpy(noise(backbone, 1)).cuda()
    before = cuda.launches.of("_to_copy")
    penultimate(backbone, images)
    once = cuda.launches.of("_to_copy") - before
    backbone._forward._network = backbone.model
    penultimate(backbone, images)
    every_pass = cuda.launches.of("_to_copy") - before - once
    layers = sum(type(layer) in (torch.nn.Conv2d, torch.nn.Linear) for layer in backbone.model.modules())
    assert every_pass - once >= 2 * (layers - 1)  # all but the classifier's weight and bias


def test_weights_are_in_place_before_any_stream_reads_them(cuda: SimulatedCuda) -> None:
    """They are laid out on the loading thread's stream, which those of the passes do not wait for."""
    on_gpu()
    waits = [event for event in cuda.syncs if event.operation == "synchronize"]
    assert [event.lines[0].split(":")[0] for event in waits] == ["timm_backbone.py"], cuda.syncs.table()


def test_replicas_on_threads_give_the_same_features(cuda: SimulatedCuda) -> None:
    backbone = on_gpu()
    images = noise(backbone, 8)
    expected = penultimate(backbone, images[:4]), penultimate(backbone, images[4:])
    with ThreadPoolExecutor(2) as replicas:
        for number, features in enumerate(replicas.map(partial(penultimate, backbone), [images[:4], images[4:]] * 4)):
            np.testing.assert_array_equal(features, expected[number % 2])


def test_the_reference_is_on_the_cpu(cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedCuda, "__deepcopy__", lambda device, memo: device, raising=False)
    backbone = on_gpu("test_resnet", "bfloat16")
    images = noise(backbone, 2)
    reference = backbone.reference()
    assert not any(parameter.is_cuda for parameter in reference.model.parameters())
    np.testing.assert_array_equal(
        penultimate(reference, images), penultimate(load_backbone("test_resnet", weights="random"), images)
    )


def test_replicas_of_a_gpu_take_turns_when_compiling_is_decided(
    cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch fills a GPU: two streams hide the copies, and do not compute twice as much."""
    monkeypatch.setattr(compilation, "has_compiler", lambda: True)
    monkeypatch.setattr(compilation, "_eager_seconds", lambda backbone, batch_size: 0.001)
    backbone = on_gpu()
    decisions = [decide_compile(backbone, 210_000, batch_size=256, replicas=n, requested=None) for n in (1, 2)]
    assert decisions[0] == decisions[1]
    assert decisions[0].compile  # 0.3 of 210 s is more than 60 s
    assert "210,000 images take about 210 s" in decisions[0].reason
