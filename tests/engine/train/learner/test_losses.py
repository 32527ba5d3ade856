from dataclasses import replace

import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy  # type: ignore[attr-defined]
from torch import nn

from penultimate.engine.backbones.architectures.auxiliary import AuxiliaryNetwork
from penultimate.engine.train.learner.learner import Learner
from penultimate.engine.train.learner.losses import TrainingLoss
from penultimate.engine.train.learner.network import (
    InitialModel,
    Normalise,
    build_network,
    load_initial_model,
    with_heads,
)
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.world import World
from penultimate.store.errors import InputError, UnknownNameError

LOGITS = torch.randn((6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
TARGETS = torch.tensor([0, 1, 2, 3, 0, 1])
WORLD = World(rank=0, size=1, device=torch.device("cpu"))


def test_smoothed_softmax_is_timms() -> None:
    ours = TrainingLoss("softmax", smoothing=0.1)(LOGITS, TARGETS)
    theirs = LabelSmoothingCrossEntropy(0.1)(LOGITS, TARGETS)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours, theirs)  # float32, default tolerances


def test_one_against_the_rest_is_a_classifier_a_class() -> None:
    separate = sum(
        nn.functional.binary_cross_entropy_with_logits(LOGITS[:, k], TARGETS.eq(k).float()) for k in range(4)
    )
    torch.testing.assert_close(TrainingLoss("sigmoid")(LOGITS, TARGETS), separate)
    onehot = nn.functional.one_hot(TARGETS, 4).to(torch.uint8)
    torch.testing.assert_close(TrainingLoss("sigmoid")(LOGITS, onehot), separate)


def test_pixels_are_normalised_as_timm_does() -> None:
    images = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = Normalise(mean, std)(images)
    expected = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normalised, expected, rtol=1e-5, atol=1e-6)  # one fused multiply-add in float32
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_a_new_classifier_depends_on_the_seed_and_the_rest_on_the_start(initial: InitialModel, recipe: Recipe) -> None:
    one, two = (
        build_network(initial, recipe.replace(seed=seed), num_classes=3, steps_per_epoch=3).state_dict()
        for seed in (1, 2)
    )
    assert [name for name in one if not torch.equal(one[name], two[name])] == ["classifier.weight"]
    assert torch.equal(one["conv_stem.weight"], initial.model.state_dict()["conv_stem.weight"])


def test_without_batch_norm_scale_it_stays_one(initial: InitialModel, recipe: Recipe) -> None:
    plain = recipe.replace(batch_norm_scale=False)
    learner = Learner(initial, plain, num_classes=3, steps_per_epoch=3, world=WORLD)
    with torch.random.fork_rng():
        learner.update(0, torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8), torch.tensor([0, 1, 2, 0]))
    assert torch.equal(learner.weights()["bn1.weight"], torch.ones(24))
    assert not torch.equal(learner.weights()["bn1.bias"], torch.zeros(24))


@pytest.mark.slow
def test_the_auxiliary_heads_are_trained_along_and_not_kept(recipe: Recipe) -> None:
    inception = load_initial_model("inception_v1", init="random", weights="timm", seed=0)
    aided = recipe.replace(
        network="inception_v1", auxiliary_head=True, preprocess=replace(recipe.preprocess, height=96, width=96)
    )
    learner = Learner(inception, aided, num_classes=3, steps_per_epoch=3, world=WORLD)
    heads = [name for name in learner.state()["trained"] if name.startswith("heads.")]
    before = {name: learner.state()["trained"][name].clone() for name in heads}
    with torch.random.fork_rng():
        learner.update(0, torch.randint(0, 256, (4, 96, 96, 3), dtype=torch.uint8), torch.tensor([0, 1, 2, 0]))
    assert all(not torch.equal(before[name], learner.state()["trained"][name]) for name in heads if "weight" in name)
    assert (
        learner.weights().keys()
        == build_network(inception, aided, num_classes=3, steps_per_epoch=3).state_dict().keys()
    )


def test_heads_where_there_are_none_or_too_small_an_image_are_refused(initial: InitialModel, recipe: Recipe) -> None:
    network = build_network(initial, recipe, num_classes=3, steps_per_epoch=3)
    with pytest.raises(UnknownNameError, match="auxiliary heads"):
        with_heads(network, recipe.replace(auxiliary_head=True))
    tiny = recipe.replace(network="inception_v1", auxiliary_head=True)
    inception = load_initial_model("inception_v1", init="random", weights="timm", seed=0)
    with pytest.raises(InputError, match="refuses images of 32 x 32 pixels"):
        with_heads(build_network(inception, tiny, num_classes=3, steps_per_epoch=3), tiny)
    assert isinstance(AuxiliaryNetwork(inception.model, "inception_v1", seed=0), nn.Module)


def test_the_averaged_network_is_what_is_evaluated(initial: InitialModel, recipe: Recipe) -> None:
    pixels, targets = torch.full((4, 32, 32, 3), 90, dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    with torch.random.fork_rng():
        averaged = Learner(initial, recipe.replace(ema_decay=0.5), num_classes=3, steps_per_epoch=3, world=WORLD)
        current = Learner(initial, recipe, num_classes=3, steps_per_epoch=3, world=WORLD)
        for step in range(3):
            averaged.update(step, pixels, targets)
            current.update(step, pixels, targets)
    assert torch.equal(averaged.state()["trained"]["conv_stem.weight"], current.weights()["conv_stem.weight"])
    assert not torch.equal(averaged.weights()["conv_stem.weight"], current.weights()["conv_stem.weight"])
