"""A network of the user's is checked when it is loaded: what would give wrong rows is refused in one line."""

import re

import pytest
import torch

from penultimate.engine.backbones.loading.weights import load_network
from penultimate.engine.backbones.own.load import load_own
from penultimate.engine.backbones.timm_backbone import load_backbone, preprocess_of
from penultimate.store.errors import InputError

HERE = "support.own_networks"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("batch_norm_in_training", "1 of the module is in training mode, in which batch norm and dropout"),
        ("batch_statistics", "depend on the rest of the batch"),
        ("centred_over_the_batch", "depend on the rest of the batch"),
        ("squeezed", "gives shape (8,) for 1 images"),
        ("random", "differ from call to call: something is drawn at random"),
        ("hooked", "depend on what other threads do: values are kept between layers"),
        ("hooked_before_the_end", "depend on what other threads do: values are kept between layers"),
        ("not_a_number", "are NaN or infinite for 2 of 2 images"),
        ("nothing", "are all 0"),
        ("maps", "gives shape (2, 8, 28, 28) for 2 images; expected vectors of shape (2, D)"),
        ("whole_numbers", "gives torch.int64; expected floating-point vectors"),
        ("without_penultimate", "gives the readouts cls; one of them must be called 'penultimate'"),
        ("fails", "fails on images of 32 x 32 pixels: RuntimeError: this layer is broken"),
        ("cannot_be_made", "cannot be made: FileNotFoundError: no file weights.pth"),
        ("module_alone", "returns Convolution alone; expected two things"),
        ("of_bytes", "expected one of pixels between 0 and 1: divide mean and std by 255"),
        ("another_field", "a dict of input_size, mean, std"),
    ],
)
def test_what_would_give_wrong_rows_is_refused_in_one_line(function: str, words: str) -> None:
    with pytest.raises(InputError) as raised:
        load_own(f"{HERE}:{function}", seed=0)
    assert words in str(raised.value)
    assert f"{HERE}:{function}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("function", ["plain", "cropped", "two_readouts", "in_lower_precision", "hooked_and_locked"])
def test_what_gives_right_rows_is_taken(function: str) -> None:
    loaded = load_own(f"{HERE}:{function}", seed=0)
    assert loaded.network.head_hidden_size == 8
    assert all(tensor.dtype == torch.float32 for tensor in loaded.network.parameters())
    assert not loaded.network.training


def test_a_network_of_the_users_is_a_backbone_that_embeds_by_its_own_code() -> None:
    backbone = load_backbone(f"{HERE}:plain")
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8).numpy()
    with torch.inference_mode():
        expected = backbone.model.get_submodule("module")(
            (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        )
    torch.testing.assert_close(torch.from_numpy(backbone.embed(images)["penultimate"]), expected)
    assert backbone.name == f"{HERE}:plain"
    assert backbone.num_classes == 0


def test_a_preprocess_is_taken_as_it_stands_but_for_exif() -> None:
    model = load_network(f"{HERE}:cropped", weights="timm", seed=0).model
    own = preprocess_of(model, "paper")
    assert (own.height, own.width, own.resize, own.crop_pct) == (32, 48, "crop", 0.8)
    assert preprocess_of(model, "timm") == own
    assert preprocess_of(model, "paper-exif").exif_orientation
    of_a_size = preprocess_of(load_network(f"{HERE}:plain", weights="timm", seed=0).model, "paper")
    assert (of_a_size.height, of_a_size.width, of_a_size.resize) == (32, 32, "whole")


def test_what_a_function_draws_depends_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (load_network(f"{HERE}:plain", weights="timm", seed=seed) for seed in (1, 1, 2))
    assert first.digest == again.digest != other.digest
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("weights", ["package", "random"])
def test_weights_of_timm_are_refused(weights: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"{HERE}:plain brings its own weights, and --weights {weights}")):
        load_network(f"{HERE}:plain", weights=weights, seed=0)


def test_the_readouts_of_a_users_network_are_what_its_module_gives() -> None:
    name = f"{HERE}:two_readouts"
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8).numpy()
    both = load_backbone(name, readouts=["squares", "penultimate"])
    assert both.feature_dims == {"squares": 8, "penultimate": 8}
    found = both.embed(images)
    torch.testing.assert_close(torch.from_numpy(found["squares"]), torch.from_numpy(found["penultimate"]) ** 2)
    assert list(load_backbone(name).embed(images)) == ["penultimate"]
    with pytest.raises(InputError, match=r"has no readout 'cls'; it has penultimate, squares"):
        load_backbone(name, readouts=["cls"])
