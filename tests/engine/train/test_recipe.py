import json
from dataclasses import replace
from typing import Any

import pytest

from penultimate.engine.train.recipe import Recipe
from penultimate.store.errors import InputError


def test_a_recipe_survives_json(with_dropout: Recipe) -> None:
    again = Recipe.from_dict(json.loads(json.dumps(with_dropout.as_dict())))
    assert again == with_dropout
    assert again.digest == with_dropout.digest


def test_any_change_gives_another_digest(recipe: Recipe) -> None:
    changed = [
        recipe.replace(learning_rate=0.06),
        recipe.replace(seed=1),
        recipe.replace(splits=("train", "val")),
        recipe.replace(preprocess=replace(recipe.preprocess, height=48)),
    ]
    assert len({recipe.digest, *(other.digest for other in changed)}) == 5
    assert recipe.differences(changed[0]) == {"learning_rate": (0.05, 0.06)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": float("nan")},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"warmup_steps": 8},
        {"crop_scale": (0.0, 1.0)},
        {"label_smoothing": 1.0},
        {"batch_size": 0},
        {"ema_decay": 1.0},
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(recipe: Recipe, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        recipe.replace(**wrong)


def test_a_recipe_of_another_version_is_refused(recipe: Recipe) -> None:
    with pytest.raises(InputError, match="colour"):
        Recipe.from_dict(recipe.as_dict() | {"colour": "green"})


def test_the_last_update_is_always_evaluated(recipe: Recipe) -> None:
    odd = recipe.replace(steps=10, eval_every=4)
    assert [step for step in range(1, 11) if odd.evaluates_after(step)] == [4, 8, 10]
