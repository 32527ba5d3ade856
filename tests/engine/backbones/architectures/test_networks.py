"""Networks are created by name, with the training settings that the paper studies."""

from pathlib import Path

import pytest
import torch
from torch import nn

from penultimate.engine.backbones.architectures.networks import OUR_CONFIGS, check_name, create_network, weight_tags
from penultimate.engine.backbones.loading.weights import load_network
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError


@pytest.mark.parametrize("name", ["test_resnet", "bn_inception", "inception_v1"])
def test_without_a_batch_norm_scale_gamma_is_one_and_not_learned(name: str) -> None:
    model = create_network(name, batch_norm_scale=False)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(bool((norm.weight == 1).all()) and not norm.weight.requires_grad for norm in norms)
    assert all(norm.bias.requires_grad for norm in norms)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with_scale = sum(p.numel() for p in create_network(name).parameters() if p.requires_grad)
    assert with_scale - learned == sum(norm.num_features for norm in norms)


def test_a_learned_scale_is_not_taken_away_but_an_absent_one_may_stay_absent() -> None:
    from penultimate.engine.backbones.architectures.networks import fix_batch_norm_scale

    model = create_network("test_resnet", batch_norm_scale=False)
    fix_batch_norm_scale(model, initial=False)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.weight.data[0] = 1.5
    with pytest.raises(InputError, match="batch-norm scale"):
        fix_batch_norm_scale(model, initial=False)


@pytest.mark.parametrize("name", ["test_resnet", "bn_inception"])
def test_dropout_acts_on_the_features_in_training_alone(name: str) -> None:
    model = create_network(name, dropout=0.5, num_classes=3)
    maps = torch.ones(4, model.head_hidden_size, 2, 2)
    assert bool((model.forward_head(maps, pre_logits=True) == 1).all())
    torch.manual_seed(0)
    dropped = model.train().forward_head(maps, pre_logits=True)
    assert set(dropped.flatten().tolist()) == {0.0, 2.0}
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_names_know_their_tags() -> None:
    for arch, config in OUR_CONFIGS.items():
        assert weight_tags(arch) == [config["tag"]]
        check_name(f"{arch}.{config['tag']}")
    assert "tv_in1k" in weight_tags("resnet50")
    with pytest.raises(UnknownNameError, match="bn_inception"):
        check_name("bninception")


def test_published_weights_of_our_own_networks_are_downloaded_renamed_and_their_hash_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashlib import sha256

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    model = create_network("nasnetamobile", seed=4)
    torch.save(model.state_dict(), tmp_path / "unnamed.pth")
    content = (tmp_path / "unnamed.pth").read_bytes()
    published = tmp_path / f"nasnetamobile-{sha256(content).hexdigest()[:8]}.pth"
    published.write_bytes(content)
    monkeypatch.setitem(OUR_CONFIGS["nasnetamobile"], "url", published.as_uri())
    network = load_network("nasnetamobile", weights="timm", seed=0)
    assert network.name == "nasnetamobile.tf_in1k"
    assert torch.equal(network.model.state_dict()["fc.weight"], model.state_dict()["fc.weight"])

    (tmp_path / "nasnetamobile-00000000.pth").write_bytes(content)
    monkeypatch.setitem(OUR_CONFIGS["nasnetamobile"], "url", (tmp_path / "nasnetamobile-00000000.pth").as_uri())
    with pytest.raises(UnavailableError, match="hash"):
        load_network("nasnetamobile", weights="timm", seed=0)
    monkeypatch.setitem(OUR_CONFIGS["nasnetamobile"], "url", (tmp_path / "gone-00000000.pth").as_uri())
    with pytest.raises(UnavailableError, match="--weights FILE"):
        load_network("nasnetamobile", weights="timm", seed=0)
