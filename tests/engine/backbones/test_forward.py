"""Forward runs eager and compiled, fills up and halves batches, and is compiled where that pays."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.backbones import penultimate
from support.processors import pretend

from penultimate.engine.backbones import compilation
from penultimate.engine.backbones.compilation import decide_compile
from penultimate.engine.backbones.timm_backbone import TimmBackbone, load_backbone
from penultimate.engine.runtime.capabilities import has_compiler
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.errors import MemoryLimitError, UnavailableError


def noise(backbone: TimmBackbone, batch: int) -> NDArray[np.uint8]:
    shape = (batch, backbone.preprocess.height, backbone.preprocess.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.capability
@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_compiled_features_are_the_eager_ones_in_any_company() -> None:
    backbone = load_backbone("test_resnet", weights="random")
    images = noise(backbone, 6)
    eager = penultimate(backbone, images)
    assert backbone.compile(4) > 0
    assert backbone.provenance["compiled"]
    compiled = penultimate(backbone, images)  # a full pass of four and one of two, filled up
    # Batch norms folded into convolutions, and sums in another order: float32 rounding through some twenty layers.
    np.testing.assert_allclose(compiled, eager, rtol=1e-3, atol=1e-4)
    alone = np.concatenate([penultimate(backbone, images[i : i + 1]) for i in range(6)])
    # One graph and one shape: what fills the pass up can change nothing but the order within a kernel.
    np.testing.assert_allclose(alone, compiled, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for weight in backbone.model.parameters():
            weight.zero_()
    # Weights are part of the graph: were they still its inputs, nothing would be folded or laid out beforehand.
    # On a thread, as replicas run: a graph that were traced anew there would take the weights of now.
    with ThreadPoolExecutor(1) as replica:
        np.testing.assert_array_equal(replica.submit(penultimate, backbone, images).result(), compiled)


class OutOfMemoryAbove:
    """Let a pass run out of memory above so many images."""

    def __init__(self, backbone: TimmBackbone, limit: int) -> None:
        self.features, self.limit = backbone._forward._run, limit
        self.rows: list[int] = []

    def __call__(self, pixels_BHWC: torch.Tensor) -> dict[str, torch.Tensor]:
        self.rows.append(len(pixels_BHWC))
        if len(pixels_BHWC) > self.limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return self.features(pixels_BHWC)


def test_a_batch_that_does_not_fit_is_halved_and_the_next_are_not_tried_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = load_backbone("test_resnet", weights="random")
    images = noise(backbone, 10)
    expected = penultimate(backbone, images)
    scarce = OutOfMemoryAbove(backbone, 3)
    monkeypatch.setattr(backbone._forward, "_run", scarce)
    # Passes of another size may add in another order: float32 rounding.
    np.testing.assert_allclose(penultimate(backbone, images), expected, rtol=1e-4, atol=1e-5)
    assert scarce.rows == [10, 5, 2, 2, 2, 2, 2]
    penultimate(backbone, images[:5])
    assert scarce.rows[7:] == [2, 2, 1]
    assert backbone.provenance["halved_to"] == 2


def test_one_image_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("test_resnet", weights="random")
    monkeypatch.setattr(backbone._forward, "_run", OutOfMemoryAbove(backbone, 0))
    with pytest.raises(MemoryLimitError, match="one image through test_resnet"):
        penultimate(backbone, noise(backbone, 4))


def test_other_errors_of_a_pass_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("test_resnet", weights="random")

    def broken(pixels_BHWC: torch.Tensor) -> dict[str, torch.Tensor]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(backbone._forward, "_run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        penultimate(backbone, noise(backbone, 4))


def test_one_pass_gives_the_features_of_embed_and_the_scores_of_the_network() -> None:
    backbone = load_backbone("test_resnet", weights="random")
    images = noise(backbone, 3)
    features, scores = backbone.classify(images)
    np.testing.assert_array_equal(features["penultimate"], penultimate(backbone, images))
    np.testing.assert_array_equal(scores, backbone.logits(images))
    assert scores.shape == (3, backbone.num_classes)


def test_the_reference_is_the_same_network_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx512_bf16")  # nothing is computed in it
    lower = load_backbone("test_resnet", weights="random", precision="bfloat16")
    images = noise(lower, 2)
    exact = load_backbone("test_resnet", weights="random")
    np.testing.assert_array_equal(penultimate(lower.reference(), images), penultimate(exact, images))


def test_compiling_is_decided_by_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("test_resnet", weights="random")
    monkeypatch.setattr(compilation, "has_compiler", lambda: True)
    monkeypatch.setattr(compilation, "_eager_seconds", lambda backbone, batch_size: 0.01)

    def decided(num_images: int, requested: bool | None = None) -> tuple[bool, str]:
        decision = decide_compile(backbone, num_images, batch_size=8, replicas=2, requested=requested)
        return decision.compile, decision.reason

    # 0.3 of 0.005 s an image is saved: 25 s after 16,667 images.
    assert not decided(16_000)[0]
    pays, reason = decided(17_000)
    assert pays
    assert "17,000 images take about 85 s; compiling takes about 25 s and saves about 26 s" in reason
    assert decided(10, requested=True)[0]
    assert not decided(10**6, requested=False)[0]
    assert decided(0, requested=True) == (False, f"{backbone.name}: nothing to compute")


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("test_resnet", weights="random")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not decide_compile(backbone, 10**9, batch_size=8, replicas=1, requested=None).compile
    with pytest.raises(UnavailableError, match="C\\+\\+ compiler"):
        backbone.compile(2)


def test_a_precision_the_processor_would_emulate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx2")
    with pytest.raises(UnavailableError, match=r"no bfloat16 units .* use --precision float32$"):
        load_backbone("test_resnet", weights="random", precision="bfloat16")


@pytest.mark.gpu
@pytest.mark.slow
def test_on_a_gpu_compiled_features_on_two_threads_are_the_eager_ones() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    backbone = load_backbone("test_resnet", weights="random", device="cuda", precision="bfloat16")
    images = noise(backbone, 6)
    eager = penultimate(backbone, images)
    backbone.compile(4)
    pixels = torch.from_numpy(images).cuda()
    with ThreadBudget.of("cuda").in_force(), ThreadPoolExecutor(2) as replicas:
        parts = list(replicas.map(partial(penultimate, backbone), [pixels[:3], pixels[3:]] * 8))
    assert all(np.array_equal(part, parts[number % 2]) for number, part in enumerate(parts))
    compiled = np.concatenate(parts[:2])
    # bfloat16 keeps 8 bits (2^-9 = 0.2 % a rounding); fused kernels round at other places.
    assert np.linalg.norm(compiled - eager) < 0.03 * np.linalg.norm(eager)
