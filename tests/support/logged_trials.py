"""Make a trial with a value in every field, and compare it with another one."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from penultimate.store.trials.trial import Trial


def trial(seed: int = 0, **changes: Any) -> Trial:
    made = Trial(
        dataset="insects",
        backbone="tiny.random",
        method="probe",
        features={"images": "0123", "weights": "4567"},
        settings={"l2": [1.0, 0.1], "tolerance": 1e-6},
        seed=seed,
        metric="top1",
        value=0.5,
        metrics={"val": {"top1": 0.25}, "test": {"top1": 0.5}},
        chosen={"l2": 0.1},
        converged=True,
        history=[{"l2": 1.0, "steps": 3}, {"l2": 0.1, "steps": 5}],
        arrays={"test_ids": np.array(["a", "bcd"]), "test_labels": np.array([0, 1]), "test_predictions": np.zeros(2)},
        versions={"numpy": "2"},
        hardware={"cores": 2},
        commit="abc",
        created="2026-01-01T00:00:00+00:00",
        wall_seconds=1.5,
        notes=["one image left out"],
    )
    return replace(made, **changes)


def same(first: Trial, second: Trial) -> bool:
    names = [field.name for field in fields(Trial) if field.name != "arrays"]
    arrays: list[Mapping[str, Any]] = [first.arrays, second.arrays]
    return (
        all(getattr(first, name) == getattr(second, name) for name in names)
        and set(arrays[0]) == set(arrays[1])
        and all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])
    )
