"""A study that takes seconds: generated images of three colours, two untrained networks, five strengths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penultimate.engine.study.study import Study

SMALL = {
    "extract": {"decoder": "pillow", "compile": False},
    "workers": 1,
    "backbones": [{"model": "test_resnet", "weights": "random"}, {"model": "test_efficientnet", "weights": "random"}],
    "probe": {"l2": "0.01:100:5"},
}
BRIEF = {"size": 32, "batch_size": 4, "steps": [2, 4], "decoder": "pillow", "retrain": False}


@pytest.fixture
def small(photos: Path) -> Callable[..., Study]:
    """Return the study with some parts replaced."""

    def make(**parts: Any) -> Study:
        return Study.model_validate({"data": str(photos.parent), "datasets": {"photos": {}}, **SMALL, **parts})

    return make


@pytest.fixture
def brief() -> dict[str, Any]:
    """Return settings to train for a few updates with two budgets."""
    return dict(BRIEF)
