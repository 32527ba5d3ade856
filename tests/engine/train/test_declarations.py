"""The one declaration of training options names runs and trials as the code before it did, and refuses what it must."""

from typing import Any

import pytest

from penultimate.cli.settings_option import described
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.train.learner.network import InitialModel
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.settings import TrainSettings
from penultimate.engine.train.sweep import TrainJob
from penultimate.store.errors import InputError
from penultimate.store.format.digest import digest_of

IMAGES = "0123456789abcdef"
VIEW = Preprocess(height=32, width=32, resize="whole", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CROP = Preprocess(
    height=224, width=224, resize="crop", crop_pct=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
EVERYTHING: dict[str, Any] = {
    "splits": ("train", "val"), "steps": 19531, "batch_size": 64, "learning_rate": 0.000316228,
    "weight_decay": 3.16228e-05, "decay_all": True, "momentum": 0.95, "warmup_steps": 100, "crop_scale": (0.3, 1.0),
    "crop_ratio": (0.5, 2.0), "flip": 0.0, "augmenter": "pillow", "decoder": "pillow", "loss": "sigmoid",
    "label_smoothing": 0.1, "dropout": 0.2, "auxiliary_head": True, "batch_norm_scale": False, "precision": "bfloat16",
    "channels_last": False, "compile": True, "ema_decay": 0.999, "eval_every": 976, "seed": 3,
}  # fmt: skip


# The digests below were computed by the code of commit 7a5ffc1, before options were declared once. They name folders
# of runs and trials in logs that exist: none of them may ever change.
@pytest.mark.parametrize(
    ("values", "digest"),
    [
        ({"network": "resnet18", "weights": "random", "preprocess": VIEW, "eval_every": 4}, "918b3d3e0acd2b95"),
        (
            {"network": "inception_v3", "weights": "fedcba9876543210", "preprocess": CROP, **EVERYTHING},
            "d504f2a6a045f6b4",
        ),
        (
            {
                "network": "test_resnet", "weights": "random", "shots": 5, "dropout": 0.0, "preprocess": VIEW,
                "eval_every": 1, "decoder": "dali-gpu",
            },
            "184c2ea3cdfbdf87",
        ),
    ],
)  # fmt: skip
def test_a_recipe_has_the_digest_that_it_had_before(values: dict[str, Any], digest: str) -> None:
    recipe = Recipe(images=IMAGES, **values)
    assert recipe.digest == digest
    assert Recipe.from_dict(recipe.as_dict()).digest == digest


@pytest.mark.parametrize(
    ("asked", "trial_settings", "runs"),
    [
        ({"decoder": "dali"}, "5cd836916dd79d31", ["dcdacd43d8b7b334"]),
        (
            {"grid": "paper-finetune", "precision": "bfloat16", "decoder": "dali"},
            "f7a1277c76d6c97b",
            ["bfe0c3ea9223bf7f", "f258ce4c0a7b1504"],
        ),
        (
            {
                "grid": "paper-scratch", "steps": 1221, "decoder": "dali-gpu", "batch_size": 64, "ema_decay": 0.9999,
                "warmup_steps": 10,
            },
            "9b6ebd74227a5a32",
            ["8aa12e5b2b6fb532", "596b6ff2dedae1cc"],
        ),
    ],
)  # fmt: skip
def test_settings_resolve_to_the_trials_and_runs_that_they_did_before(
    asked: dict[str, Any], trial_settings: str, runs: list[str], images: ImageSet, test_resnet: InitialModel
) -> None:
    search = TrainSettings.of({"init": "random", **asked}).search(images, test_resnet)
    assert digest_of(search.settings) == trial_settings
    found = [recipe.replace(images=IMAGES, preprocess=VIEW).digest for recipe in search.recipes[:2]]
    assert found == runs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"momentun": 0.9}, "did you mean momentum"),
        ({"momentum": 1.0}, "momentum: Input should be less than 1, got 1.0"),
        ({"steps": [0]}, "steps.0: Input should be greater than or equal to 1, got 0"),
        ({"shots": "some"}, "expected all, or a number of images a class from 1 up, got 'some'"),
        ({"grid": "quik"}, "did you mean quick"),
        ({"label_smoothing": float("nan")}, "label_smoothing: Input should be a finite number"),
        ({"device": "gpu"}, "device: Input should be 'cpu' or 'cuda', got 'gpu'"),
    ],
)
def test_what_is_not_declared_is_refused_in_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainJob.of(wrong)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_multiply_and_one_value_is_a_list_of_one() -> None:
    job = TrainJob.of({"steps": [100, 400], "shots": [1, "all"], "seeds": 2, "seed": 7, "learning_rates": 0.1})
    trials = [(each.steps, each.shots, each.seed) for each in job.trials()]
    assert trials == [(s, k, seed) for s in (100, 400) for k in (1, None) for seed in (7, 8)]
    assert job.resolved_grid.learning_rates == (0.1,)


def test_every_option_says_what_it_is_and_what_it_may_be() -> None:
    rows = {row["name"]: row for row in described(TrainJob)}
    assert set(rows) == set(TrainJob.model_fields)
    assert [name for name, row in rows.items() if len(row["help"]) < 15 or "``" in row["help"]] == []
    assert rows["momentum"]["type"] == "number > 0, < 1"
    assert rows["precision"]["type"] == "float32 | tf32 | bfloat16 | float16"
    assert rows["weight_decays"]["type"] == "list of number >= 0"
    assert rows["flip"]["default"] == "0.5"
