"""A small real task: generated images of three colours, and a small real network on 32 pixels."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.train.learner.network import InitialModel, load_initial_model
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.runs.resources import Resources, ResourceSettings
from penultimate.engine.train.world import World

NETWORK = "test_efficientnet"
VIEW = Preprocess(height=32, width=32, resize="whole", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: small products on several threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images(photos: Path) -> ImageSet:
    """Make 4 images of each class to train on, 2 for val and 2 for test."""
    return load_images(str(photos))


@pytest.fixture(scope="session")
def initial() -> InitialModel:
    return load_initial_model(NETWORK, init="random", weights="timm", seed=0)


@pytest.fixture
def recipe(images: ImageSet, initial: InitialModel) -> Recipe:
    return Recipe(
        network=NETWORK,
        weights=initial.digest,
        images=images.digest,
        steps=8,
        batch_size=4,
        learning_rate=0.05,
        weight_decay=1e-4,
        preprocess=VIEW,
        augmenter="pillow",
        decoder="pillow",
        eval_every=4,
    )


@pytest.fixture
def resources() -> Resources:
    settings = ResourceSettings(workers=2, log_every=2, checkpoint_every=3)
    return Resources(world=World(rank=0, size=1, device=torch.device("cpu")), settings=settings)


@pytest.fixture
def with_dropout(recipe: Recipe) -> Recipe:
    """Return settings with everything that draws at random or keeps a state of its own."""
    return recipe.replace(dropout=0.3, ema_decay=0.9, warmup_steps=2, label_smoothing=0.1)


@pytest.fixture(scope="session")
def test_resnet() -> InitialModel:
    return load_initial_model("test_resnet", init="random", weights="timm", seed=0)
