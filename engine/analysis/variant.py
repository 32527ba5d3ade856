"""Variant: what sets trials of one backbone by one method on the same images apart, as short labels."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penultimate.store.format.digest import digest_of
from penultimate.store.trials.trial import Trial

OTHER_AXES = ("shots", "steps")
"""Settings that are an axis of their own (data size, step budget), shown beside the variant and not in it."""

_FOLLOWS_FROM_STEPS = ("eval_every",)
"""By default a share of the steps, and it only says where a curve has points."""

_FOLLOWS_FROM_SHOTS = ("retrain",)
"""What was trained on k images a class is never trained again on val, which has more."""

OF_THE_NETWORK = ("weights", "preprocess")
"""Fields of a FeatureKey that differ between backbones anyway: they are named only for a backbone that has several."""

_SAME_IN_A_CELL = ("dataset", "images", "backbone")
"""Fields of a FeatureKey that say which cell of the table a trial is in, not which variant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Labels of one trial; empty where nothing sets it apart."""

    setting: str
    """What was done, such as ``"loss=squared_hinge"``: backbones can be compared within it."""

    network: str
    """Which network of the backbone's name, such as ``"weights=1f3a9c02"``."""

    @property
    def label(self) -> str:
        """Both."""
        return ", ".join(filter(None, (self.setting, self.network)))


def variants(trials: Sequence[Trial]) -> list[Variant]:
    """One variant a trial.

    A setting is named where two trials of the same backbone, method and images differ in it (one that lacks it does not
    differ); settings that only
    differ between datasets are not. Once named for a method, all its trials carry it; what is ``OF_THE_NETWORK`` is
    carried by the backbone that has several alone. ``OTHER_AXES`` are never named.
    """
    asked = [_asked(trial) for trial in trials]
    cells: defaultdict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for trial, each in zip(trials, asked, strict=True):
        cells[trial.method, trial.backbone, trial.dataset, trial.features["images"]].append(each)
    of_method: defaultdict[str, set[str]] = defaultdict(set)
    of_backbone: defaultdict[str, set[str]] = defaultdict(set)
    for (method, backbone, *_), cell in cells.items():
        for name in _differing(cell):
            (of_backbone[backbone] if name in OF_THE_NETWORK else of_method[method]).add(name)
    return [
        Variant(setting=_label(each, of_method[trial.method]), network=_label(each, of_backbone[trial.backbone]))
        for trial, each in zip(trials, asked, strict=True)
    ]


def _label(asked: Mapping[str, Any], names: set[str]) -> str:
    return ", ".join(f"{name}={_short(asked[name])}" for name in sorted(names) if name in asked)


def _asked(trial: Trial) -> dict[str, Any]:
    """Settings and feature fields of a trial in one flat mapping, nested settings by dotted names; axes left out."""
    features = {name: value for name, value in trial.features.items() if name not in _SAME_IN_A_CELL}
    left_out: tuple[str, ...] = (*OTHER_AXES, *_FOLLOWS_FROM_STEPS)
    if trial.settings.get("shots") is not None:
        left_out += _FOLLOWS_FROM_SHOTS
    return features | {name: value for name, value in _flat(trial.settings).items() if name not in left_out}


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
    return {name for name in names if len({json.dumps(a[name], sort_keys=True) for a in cell if name in a}) > 1}


def _short(value: Any) -> str:
    """A value as a label: text and numbers as they are (digests by 8 digits), lists by their digest."""
    if isinstance(value, list | tuple):
        return digest_of(list(value))[:8]
    text = str(value)
    return text[:8] if len(text) >= 16 and all(c in "0123456789abcdef" for c in text) else text
