"""TimmBackbone gives the penultimate layer of a real network, from bytes to float32 vectors."""

import numpy as np
import pytest
import torch
from support.backbones import penultimate
from support.processors import pretend

from penultimate.engine.backbones.architectures.networks import create_network
from penultimate.engine.backbones.backbone import Backbone
from penultimate.engine.backbones.cast_once import with_weights_cast_once
from penultimate.engine.backbones.timm_backbone import BATCH_TOLERANCE, TimmBackbone, load_backbone, preprocess_of
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.capabilities import computes_natively
from penultimate.engine.runtime.devices import PrecisionName
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError


def noise(
    backbone: TimmBackbone, batch: int, seed: int = 0
) -> np.ndarray[tuple[int, int, int, int], np.dtype[np.uint8]]:
    shape = (batch, backbone.preprocess.height, backbone.preprocess.width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_features_are_what_the_classifier_is_given(name: str) -> None:
    backbone = load_backbone(name, weights="random")
    as_backbone: Backbone = backbone
    images = noise(backbone, 3)
    features = penultimate(as_backbone, images)
    assert features.dtype == np.float32
    assert features.shape == (3, backbone.feature_dims["penultimate"])
    seen: list[torch.Tensor] = []
    classifier = backbone.model.get_classifier()
    assert isinstance(classifier, torch.nn.Module)
    classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    backbone.logits(images)
    np.testing.assert_array_equal(seen[0].float().numpy(), features)


def test_pixels_are_scaled_and_normalised_by_the_mean_and_std_of_the_preprocess() -> None:
    backbone = load_backbone("test_resnet", weights="random")
    images = noise(backbone, 2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.preprocess.mean, backbone.preprocess.std))
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0 - mean) / std
    with torch.inference_mode():
        expected = backbone.model.forward_head(backbone.model.forward_features(pixels), pre_logits=True)
    # The same sums in another order: float32 rounding through some twenty layers.
    np.testing.assert_allclose(penultimate(backbone, images), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.capability
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_an_image_gets_the_same_features_in_any_company_and_from_read_only_memory(precision: PrecisionName) -> None:
    if not computes_natively(precision, torch.device("cpu")):
        pytest.skip(f"this processor has no {precision} units")
    backbone = load_backbone("test_resnet", weights="random", precision=precision)
    images = noise(backbone, 13)
    images.setflags(write=False)
    together = penultimate(backbone, images)
    norm_B = np.linalg.norm(together, axis=1)
    for rows in (1, 2, 8):
        apart = np.concatenate([penultimate(backbone, images[start : start + rows]) for start in range(0, 13, rows)])
        assert (np.linalg.norm(apart - together, axis=1) <= BATCH_TOLERANCE[precision] * norm_B).all()
    among_others = penultimate(backbone, np.concatenate([images[:4], noise(backbone, 9, seed=1)]))[:4]
    np.testing.assert_array_equal(among_others, together[:4])  # the same kernels on the same rows
    assert penultimate(backbone, images[:0]).shape == (0, backbone.feature_dims["penultimate"])


@pytest.mark.capability
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_stays_near_float32(precision: PrecisionName) -> None:
    if not computes_natively(precision, torch.device("cpu")):
        pytest.skip(f"this processor has no {precision} units")
    exact = load_backbone("test_resnet", weights="random")
    lower = load_backbone("test_resnet", weights="random", precision=precision)
    images = noise(exact, 4)
    expected, features = penultimate(exact, images), penultimate(lower, images)
    assert not np.array_equal(features, expected)
    # bfloat16 keeps 8 bits (2^-9 = 0.2 % a rounding); a few dozen layers of roundings stay under 3 % in norm.
    assert np.linalg.norm(features - expected) < 0.03 * np.linalg.norm(expected)


@pytest.mark.capability
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_nfnet"])
def test_weights_cast_once_give_the_features_of_weights_cast_in_every_pass(name: str, precision: PrecisionName) -> None:
    if not computes_natively(precision, torch.device("cpu")):
        pytest.skip(f"this processor has no {precision} units")
    backbone = load_backbone(name, weights="random", precision=precision)
    forward, images = backbone._forward, noise(backbone, 5)
    assert forward._network is not backbone.model
    once = penultimate(backbone, images), backbone.logits(images)
    forward._network = backbone.model
    for found, expected in zip(once, (penultimate(backbone, images), backbone.logits(images)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_network_that_minds_gets_its_weights_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx512_bf16")

    class Minds(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input)

    backbone = load_backbone("test_vit", weights="random", precision="bfloat16")
    plain = with_weights_cast_once(backbone.model, torch.bfloat16)
    assert any(parameter.dtype == torch.bfloat16 for parameter in plain.parameters())
    for layer in backbone.model.modules():
        if type(layer) is torch.nn.Linear:
            layer.__class__ = Minds
    kept = with_weights_cast_once(backbone.model, torch.bfloat16)
    assert sum(p.dtype == torch.bfloat16 for p in kept.parameters()) == 2  # of the convolution that makes the tokens


def test_what_cannot_be_is_refused_before_anything_is_built() -> None:
    with pytest.raises(UnknownNameError, match="cuda"):
        load_backbone("test_resnet", weights="random", device="cudda")
    with pytest.raises(UnknownNameError, match="bfloat16"):
        load_backbone("test_resnet", weights="random", precision="bfloat")  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match="sees"):
        load_backbone("test_resnet", weights="random", device="cuda:99")
    with pytest.raises(InputError, match=r"\(2, 160, 161, 3\)"):
        penultimate(load_backbone("test_resnet", weights="random"), np.zeros((2, 160, 161, 3), np.uint8))


def test_a_network_without_one_vector_an_image_is_refused() -> None:
    model = create_network("test_resnet")
    model.reset_classifier(0, "")  # type: ignore[call-arg]  # timm: no pooling
    preprocess = preprocess_of(model, "paper")
    with pytest.raises(InputError, match=r"expected \(B, D\)"):
        TimmBackbone(model, name="maps", weights_digest="", weights_source="", preprocess=preprocess)


def test_the_papers_preprocess_keeps_the_whole_image_and_timms_its_own_crop() -> None:
    model = create_network("resnet18.tv_in1k")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert preprocess_of(model, "paper") == Preprocess(height=224, width=224, resize="whole", mean=mean, std=std)
    assert preprocess_of(model, "timm") == Preprocess(
        height=224, width=224, resize="crop", crop_pct=0.875, interpolation="bilinear", mean=mean, std=std
    )
    with pytest.raises(UnknownNameError, match="paper"):
        preprocess_of(model, "papers")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_a_gpu_gives_the_features_of_the_cpu(precision: PrecisionName) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cpu = load_backbone("test_resnet", weights="random")
    gpu = load_backbone("test_resnet", weights="random", device="cuda", precision=precision)
    images = noise(cpu, 4)
    expected = penultimate(cpu, images)
    # float32 is IEEE float32, in another order; TF32 would be some 1e-3 off. bfloat16 keeps 8 bits: see the twin above.
    off = np.linalg.norm(penultimate(gpu, images) - expected) / np.linalg.norm(expected)
    assert off < (1e-4 if precision == "float32" else 0.03)
    if precision == "tf32":
        assert off > 1e-5
