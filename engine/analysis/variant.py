"""Variant: what sets trials of one backbone by one method on the same images apart, as a short label."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from penultimate.store.digest import digest_of
from penultimate.store.trial import Trial

OTHER_AXES = ("shots", "steps")
"""Settings that are an axis of their own (data size, step budget), shown beside the variant and not in it."""

_SAME_IN_A_CELL = ("dataset", "images", "backbone")
"""Fields of a FeatureKey that say which cell of the table a trial is in, not which variant."""


def variants(trials: Sequence[Trial]) -> list[str]:
    """One label a trial, such as ``"loss=one-vs-rest, weights=1f3a9c02"``; empty where nothing sets it apart.

    A setting is named where two trials of the same backbone, method and images differ in it; settings that only
    differ between datasets are not. Once a setting is named for a method, all its trials carry it. Those in
    ``OTHER_AXES`` are never named.
    """
    settings = [{name: value for name, value in _asked(t).items() if name not in OTHER_AXES} for t in trials]
    cells: defaultdict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for trial, asked in zip(trials, settings, strict=True):
        cells[trial.method, trial.dataset, trial.features["images"], trial.backbone].append(asked)
    named: defaultdict[str, set[str]] = defaultdict(set)
    for (method, *_), cell in cells.items():
        named[method] |= _differing(cell)
    return [
        ", ".join(f"{name}={_short(asked[name])}" for name in sorted(named[trial.method]) if name in asked)
        for trial, asked in zip(trials, settings, strict=True)
    ]


def _asked(trial: Trial) -> dict[str, Any]:
    """Settings and feature fields of a trial in one flat mapping, nested settings by dotted names."""
    features = {name: value for name, value in trial.features.items() if name not in _SAME_IN_A_CELL}
    return features | _flat(trial.settings)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _differing(cell: Sequence[Mapping[str, Any]]) -> set[str]:
    names = {name for asked in cell for name in asked}
    return {name for name in names if len({json.dumps(asked.get(name), sort_keys=True) for asked in cell}) > 1}


def _short(value: Any) -> str:
    """A value as a label: text and numbers as they are (digests by 8 digits), lists by their digest."""
    if isinstance(value, list | tuple):
        return digest_of(list(value))[:8]
    text = str(value)
    return text[:8] if len(text) >= 16 and all(c in "0123456789abcdef" for c in text) else text
