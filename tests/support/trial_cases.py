"""Make small trials by hand, with predictions of a stated accuracy."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from penultimate.store.trials.trial import Trial


def trial_of(
    *,
    dataset: str = "digits",
    backbone: str = "a.in1k",
    method: str = "probe",
    metric: str = "top1",
    wrong: range = range(10),
    num_test: int = 100,
    num_classes: int = 5,
    settings: Mapping[str, Any] | None = None,
    features: Mapping[str, str] | None = None,
    **fields: Any,
) -> Trial:
    """Make a trial on ``num_test`` samples, wrong at the indices in ``wrong``."""
    labels = np.arange(num_test) % num_classes
    predictions = labels.copy()
    predictions[list(wrong)] = (labels[list(wrong)] + 1) % num_classes
    correct = predictions == labels
    per_class = [correct[labels == k].mean() for k in range(num_classes)]
    value = float(correct.mean() if metric == "top1" else np.mean(per_class))
    arrays = {
        "test_ids": np.array([f"{dataset}/{i}.png" for i in range(num_test)]),
        "test_labels": labels,
        "test_predictions": predictions,
    }
    kept: dict[str, Any] = {
        "seed": 0,
        "metrics": {"test": {metric: value}},
        "chosen": {"l2": 0.01},
        "converged": True,
        "history": [],
        "arrays": arrays,
        "versions": {"torch": "2.11.0"},
        "hardware": {"cpu": "x86-64"},
        "commit": "0123456",
        "created": "2026-01-01T00:00:00Z",
        "wall_seconds": 1.0,
    } | fields
    return Trial(
        dataset=dataset,
        backbone=backbone,
        method=method,
        metric=metric,
        value=value,
        features={"images": f"{dataset}-images", "weights": f"{backbone}-weights"} | dict(features or {}),
        settings=dict(settings or {"loss": "softmax"}),
        **kept,
    )
