"""Every kind of classifier that timm's networks have: embedded, parity-checked and classified as timm does.

One small network of each kind found by ``benchmarks/scan_models.py``, which runs them all.
"""

import sys
from pathlib import Path

import pytest
import torch

from penultimate.cli.main import run
from penultimate.engine.backbones.architectures.networks import create_network
from penultimate.engine.backbones.catalog import describe
from penultimate.engine.backbones.classifier import classifier_names, classifiers, num_classes_of

SCAN = Path(__file__).parents[3] / "benchmarks" / "scan_models.py"

KINDS = {
    "test_resnet": "one linear layer on pooled features",
    "resnetv2_50x1_bit": "a convolution",
    "dla46_c": "a convolution, then flattened",
    "samvit_base_patch16_224": "a head that pools by itself",
    "efficientvim_m1": "several scales, mixed by learned weights",
    "efficientvim_m1_dist": "several scales, twice",
    "deit_tiny_distilled_patch16_224": "two tokens, averaged",
    "crossvit_tiny_240": "two branches, averaged",
    "volo_d1_224": "a token, and the best of all others",
    "caformer_s18": "a small network of its own",
    "repvit_m0_9": "batch norm before two linear layers",
    "cpubone_b0_bfrobust": "a hidden layer before the classifier",
    "efficientvit_b0": "features wider than the maps",
    "lambda_resnet26t": "weights of five axes in its trunk",
    "convit_tiny": "one linear layer; a buffer of its trunk is made in the first pass",
    "vit_small_patch14_dinov2": "none: an Identity",
}
"""Architecture -> what its classifier is like."""

IN_SHORT = {"test_resnet", "efficientvim_m1_dist", "deit_tiny_distilled_patch16_224", "convit_tiny"}
"""Those that ``make test`` runs."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in IN_SHORT else pytest.mark.slow) for n in KINDS])
def test_a_network_of_each_kind_goes_all_the_way(name: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(SCAN.parent))
    try:
        import scan_models
    finally:
        sys.path.remove(str(SCAN.parent))
    parameters = scan_models.sizes(name)["parameters"]
    assert parameters <= scan_models.META_ABOVE
    found = scan_models.examine(name, parameters)
    assert found["wrong"] == {}
    assert found["status"] == "ok"
    assert (found["classes"] == 0) == KINDS[name].startswith("none")


@pytest.mark.parametrize(
    "name",
    [
        "qwen3_vit_88m_enc",
        pytest.param("gemma4_vit_167m_enc", marks=pytest.mark.slow),
        pytest.param("deepseek_vit_412m_enc", marks=pytest.mark.slow),
        pytest.param("mobilenetv5_300m_enc", marks=pytest.mark.slow),
    ],
)
def test_an_encoder_of_tokens_is_listed_and_refused_before_anything_is_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.device("meta"):
        model = create_network(name)
    assert (classifiers(model), classifier_names(model), num_classes_of(model)) == ((), frozenset(), 0)
    row = describe(name, {})
    assert row.feature_dim is None
    assert row.parameters is not None
    for command in (
        ["extract", "--store", str(tmp_path / "s"), "-m", name],
        ["train", "--out", str(tmp_path / "r"), "-m", name],
    ):
        assert run([command[0], str(tmp_path / "nowhere"), *command[1:]]) == 2
        assert f"{name} is an encoder that gives tokens" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_weights_without_a_tag_are_named_by_the_architecture() -> None:
    assert describe("samvit_base_patch16_224", {}).weights == "samvit_base_patch16_224"


def test_scores_beside_the_classifier_are_made_anew_for_other_classes() -> None:
    with torch.device("meta"):
        old, new = create_network("volo_d1_224"), create_network("volo_d1_224", num_classes=3)
    beside = {n for n, t in old.state_dict().items() if t.shape != new.state_dict()[n].shape} - classifier_names(old)
    assert beside == {"aux_head.weight", "aux_head.bias"}
